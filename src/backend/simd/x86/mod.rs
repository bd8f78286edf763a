//! Several copies of every hot loop, one for each width of x86's vector registers.

pub mod amx;
mod avx2;
mod avx512;
mod avx512_bf16;
mod prefetch;

pub(crate) use super::dot::add_row;
use super::{F32, Isa, Simd};
use amx::Amx;
pub use avx2::Avx2;
pub use avx512::Avx512;
pub use avx512_bf16::{Avx512Bf16, to_bf16};
pub(crate) use prefetch::{LINE, prefetch};

/// Whether a later step compiles more copies for this CPU.
pub(super) const NEEDS_STEP4: bool = false;

/// Whether this CPU, and the system that it runs, have an instruction set.
pub(super) fn has(isa: Isa) -> bool {
    match isa {
        Isa::Portable => true,
        Isa::Avx2 => Avx2::new().is_some(),
        Isa::Avx512 => Avx512::new().is_some(),
        Isa::Avx512Bf16 => Avx512Bf16::new().is_some(),
        Isa::Amx => Amx::new().is_some(),
    }
}

/// Runs `$body(token, args…)` in the copy that was compiled for `$isa`: an `#[inline(always)]` body inside a function with
/// `#[target_feature]` is compiled for those features. On a CPU without them, it runs the portable copy.
macro_rules! dispatch {
    ($isa:expr, $body:ident($($arg:ident: $type:ty),* $(,)?)) => {{
        use $crate::backend::simd::{Avx2, Avx512, Isa, Portable};
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        fn avx512(simd: Avx512, $($arg: $type),*) {
            $body::<Avx512, 16>(simd, $($arg),*)
        }
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2(simd: Avx2, $($arg: $type),*) {
            $body::<Avx2, 8>(simd, $($arg),*)
        }
        let isa: Isa = $isa;
        match (isa.lanes() == 16).then(Avx512::new).flatten() {
            // SAFETY: the token proves that the CPU has these features.
            Some(simd) => unsafe { avx512(simd, $($arg),*) },
            None => match (isa == Isa::Avx2).then(Avx2::new).flatten() {
                // SAFETY: as above.
                Some(simd) => unsafe { avx2(simd, $($arg),*) },
                None => $body::<Portable, 4>(Portable, $($arg),*),
            },
        }
    }};
}
pub(crate) use dispatch;

/// Calls `$f::<…, M>(…)` for M rows or queries, 1 to 4: a micro-tile's size must be known when it is compiled.
macro_rules! of_rows {
    ($rows:expr, $f:ident::<$($t:tt),*>($($arg:expr),* $(,)?)) => {
        match $rows {
            1 => $f::<$($t,)* 1>($($arg),*),
            2 => $f::<$($t,)* 2>($($arg),*),
            3 => $f::<$($t,)* 3>($($arg),*),
            _ => $f::<$($t,)* 4>($($arg),*),
        }
    };
}
pub(crate) use of_rows;
