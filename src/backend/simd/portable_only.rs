//! One copy of every hot loop: below step 4, and on CPUs that are not x86-64.

use super::Isa;

/// Whether a later step compiles more copies for this CPU.
pub(super) const NEEDS_STEP4: bool = cfg!(target_arch = "x86_64");

/// Whether the hot loops have a copy for this instruction set.
pub(super) fn has(isa: Isa) -> bool {
    isa == Isa::Portable
}

/// Runs `$body(token, args…)`. The instruction set is always the portable one.
macro_rules! dispatch {
    ($isa:expr, $body:ident($($arg:ident: $type:ty),* $(,)?)) => {{
        let _: $crate::backend::simd::Isa = $isa;
        $(let $arg: $type = $arg;)*
        $body::<$crate::backend::simd::Portable, 4>($crate::backend::simd::Portable, $($arg),*)
    }};
}
pub(crate) use dispatch;
