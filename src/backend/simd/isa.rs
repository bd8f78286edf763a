//! Which instruction sets there are, and which of them this CPU has.

use super::copies::{NEEDS_STEP4, has};
use std::{env, sync::OnceLock};
use strum::VariantArray;

/// An instruction set that the hot loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, VariantArray)]
#[strum(serialize_all = "lowercase")]
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
    /// A message, if it names something else, what this CPU does not have, or what enters with a later step.
    pub fn asked() -> Result<Option<Isa>, String> {
        let Ok(name) = env::var("STAIRWELL_ISA") else { return Ok(None) };
        let here = Isa::supported();
        if let Some(found) = here.iter().find(|isa| isa.name() == name) {
            return Ok(Some(*found));
        }
        let known = here.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        let later = Isa::VARIANTS.iter().any(|isa| isa.name() == name) && NEEDS_STEP4;
        Err(match later {
            true => format!("STAIRWELL_ISA={name}: this build has {known}; build with `--features step4`"),
            false => format!("STAIRWELL_ISA={name}: this CPU has {known}"),
        })
    }

    /// All that this CPU can run, the best one last.
    pub fn supported() -> Vec<Isa> {
        Isa::VARIANTS.iter().copied().filter(|isa| has(*isa)).collect()
    }

    /// The name in stats.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Floats in one vector register.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Portable => 4,
            Isa::Avx2 => 8,
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => 16,
        }
    }

    /// Whether it has an instruction that multiplies bf16.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx)
    }
}
