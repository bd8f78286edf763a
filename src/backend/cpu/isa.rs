//! Which instructions this CPU has, and how one piece of Rust becomes several pieces of machine code.
//!
//! The hot loops are written once, over arrays of [`Shape::LANES`] floats, and compiled once per instruction set: an
//! `#[inline(always)]` body inside a function with `#[target_feature]` is vectorised for those features. Which copy runs is
//! decided at run time. Nothing here is written in intrinsics; a later step replaces the copies that are worth it.

use std::{env, sync::OnceLock};

/// An instruction set that the hot loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every CPU of this architecture has (SSE2 on x86-64, NEON on aarch64).
    Portable,
    /// 8 floats at a time with fused multiply-add.
    Avx2,
    /// 16 floats at a time.
    Avx512,
    /// And 32 bf16 at a time, whose products are added two and two.
    Avx512Bf16,
    /// And tiles of 16 × 32 bf16.
    Amx,
}

impl Isa {
    /// The best that this CPU has, or what the variable `STAIRWELL_ISA` asks for ([`Isa::asked`]).
    pub fn detect() -> Isa {
        static FOUND: OnceLock<Isa> = OnceLock::new();
        let best = || Isa::supported().pop().unwrap_or(Isa::Portable);
        *FOUND.get_or_init(|| Isa::asked().ok().flatten().unwrap_or_else(best))
    }

    /// What `STAIRWELL_ISA` names: `portable`, `avx2`, `avx512`, `avx512bf16` or `amx`.
    ///
    /// # Errors
    /// A message, if it names something else or what this CPU does not have.
    pub fn asked() -> Result<Option<Isa>, String> {
        let Ok(name) = env::var("STAIRWELL_ISA") else { return Ok(None) };
        let here = Isa::supported();
        let known = here.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        let found = here.into_iter().find(|isa| isa.name() == name).map(Some);
        found.ok_or_else(|| format!("STAIRWELL_ISA={name}: this CPU has {known}"))
    }

    /// All that this CPU can run, the best one last.
    pub fn supported() -> Vec<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx]
            .into_iter()
            .filter(|isa| isa.is_supported())
            .collect()
    }

    /// The name in stats.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    /// Floats in one vector register.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Portable => PortableShape::LANES,
            Isa::Avx2 => Avx2Shape::LANES,
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => Avx512Shape::LANES,
        }
    }

    /// Whether it has an instruction that multiplies bf16.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx)
    }

    #[cfg(target_arch = "x86_64")]
    fn is_supported(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Isa::Avx512Bf16 => Isa::Avx512.is_supported() && is_x86_feature_detected!("avx512bf16"),
            Isa::Amx => Isa::Avx512Bf16.is_supported() && amx_is_allowed(),
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("fma")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_supported(self) -> bool {
        self == Isa::Portable
    }
}

/// Whether the CPU has AMX's tiles and multiplies bf16 with them, and the system allows it: Linux gives a process the 8 KiB of tiles
/// only when it asks (Documentation/arch/x86/xstate.rst).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_is_allowed() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24; // CPUID 7, EDX
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        let has = std::arch::x86_64::__cpuid(0).eax >= 7
            && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE;
        // SAFETY: the call changes nothing but what this process may do, and fails where the system does not know it.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    })
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_is_allowed() -> bool {
    false // other systems have other ways to ask
}

/// How a copy of a hot loop is shaped. Constants, so that the compiler unrolls over them.
pub trait Shape {
    /// Floats in one vector register.
    const LANES: usize;
    /// Whether multiply-add is one instruction that rounds once. Without it `f32::mul_add` would call a slow function.
    const FUSED: bool;

    /// a · b + c.
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
}

/// Shape of [`Isa::Portable`]; aarch64 always has NEON's fused multiply-add.
pub struct PortableShape;
impl Shape for PortableShape {
    const LANES: usize = 4;
    const FUSED: bool = cfg!(target_arch = "aarch64");
}
/// Shape of [`Isa::Avx2`].
pub struct Avx2Shape;
impl Shape for Avx2Shape {
    const LANES: usize = 8;
    const FUSED: bool = true;
}
/// Shape of [`Isa::Avx512`].
pub struct Avx512Shape;
impl Shape for Avx512Shape {
    const LANES: usize = 16;
    const FUSED: bool = true;
}

/// Runs `$body::<Shape, LANES>(args…)` in the copy that was compiled for `$isa`.
macro_rules! dispatch {
    ($isa:expr, $body:ident($($arg:ident: $type:ty),* $(,)?)) => {{
        use $crate::backend::cpu::isa::{self, Isa};
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        fn avx512($($arg: $type),*) {
            $body::<isa::Avx512Shape, { <isa::Avx512Shape as isa::Shape>::LANES }>($($arg),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2($($arg: $type),*) {
            $body::<isa::Avx2Shape, { <isa::Avx2Shape as isa::Shape>::LANES }>($($arg),*)
        }
        match $isa {
            // SAFETY: Isa::detect and Isa::supported only give sets that this CPU has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2($($arg),*) },
            _ => $body::<isa::PortableShape, { <isa::PortableShape as isa::Shape>::LANES }>($($arg),*),
        }
    }};
}
pub(crate) use dispatch;

/// L sums side by side, in one vector register. As a type of its own, and not an array that loops index, it stays in that
/// register: the difference is a factor of 20 for AVX2.
#[derive(Clone, Copy)]
pub struct Lanes<const L: usize>([f32; L]);

impl<const L: usize> Lanes<L> {
    /// All zero.
    pub const ZERO: Lanes<L> = Lanes([0.0; L]);

    /// With these sums so far.
    #[inline(always)]
    pub fn of(sums: [f32; L]) -> Lanes<L> {
        Lanes(sums)
    }

    /// The sums, lane by lane.
    #[inline(always)]
    pub fn numbers(self) -> [f32; L] {
        self.0
    }

    /// Lane by lane, a · b + self.
    #[inline(always)]
    pub fn multiply_add<S: Shape>(self, a: &[f32; L], b: &[f32; L]) -> Lanes<L> {
        Lanes(std::array::from_fn(|l| S::multiply_add(a[l], b[l], self.0[l])))
    }

    /// Lane by lane, the larger one.
    #[inline(always)]
    pub fn max(self, other: &[f32; L]) -> Lanes<L> {
        Lanes(std::array::from_fn(|l| if other[l] > self.0[l] { other[l] } else { self.0[l] }))
    }

    /// The same for the elements that do not fill a register.
    #[inline(always)]
    pub fn multiply_add_rest<S: Shape>(mut self, a: &[f32], b: &[f32]) -> Lanes<L> {
        if a.is_empty() {
            return self; // the usual case, and the lanes stay in their register
        }
        for ((lane, a), b) in self.0.iter_mut().zip(a).zip(b) {
            *lane = S::multiply_add(*a, *b, *lane);
        }
        self
    }

    /// The sum over lanes, by halves, so that every caller adds in the same order.
    #[inline(always)]
    pub fn sum(self) -> f32 {
        // Halves of fixed lengths stay in registers; a loop over the width goes through memory, lane by lane.
        let [a, b, c, d] = match L {
            16 => halves(&halves::<8>(&self.0)),
            8 => halves(&self.0),
            _ => std::array::from_fn(|i| self.0[i]),
        };
        (a + c) + (b + d)
    }
}

/// The first H lanes plus the next H.
#[inline(always)]
fn halves<const H: usize>(lanes: &[f32]) -> [f32; H] {
    std::array::from_fn(|i| lanes[i] + lanes[i + H])
}
