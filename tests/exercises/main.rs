//! The exercises of every chapter: `cargo test --features full --test exercises`. See chapter1.rs.
//!
//! It has no harness, so the `#[test]`s of the exercises are not compiled here.

#[allow(dead_code, unused_imports)] // what only the exercises' own tests use
#[path = "../../steps/contracts/mod.rs"]
mod contracts;
mod rig;

/// A chapter whose step is not built.
#[allow(dead_code)] // with every step there is none
mod absent {
    pub fn run() -> usize {
        0
    }
}

mod chapter1;
#[cfg(feature = "step2")]
mod chapter2;
#[cfg(not(feature = "step2"))]
mod chapter2 {
    pub use crate::absent::run;
}
#[cfg(feature = "step3")]
mod chapter3;
#[cfg(not(feature = "step3"))]
mod chapter3 {
    pub use crate::absent::run;
}
#[cfg(feature = "step4")]
mod chapter4;
#[cfg(not(feature = "step4"))]
mod chapter4 {
    pub use crate::absent::run;
}
#[cfg(feature = "step5")]
mod chapter5;
#[cfg(not(feature = "step5"))]
mod chapter5 {
    pub use crate::absent::run;
}
#[cfg(feature = "step6")]
mod chapter6;
#[cfg(not(feature = "step6"))]
mod chapter6 {
    pub use crate::absent::run;
}
#[cfg(feature = "step7")]
mod chapter7;
#[cfg(not(feature = "step7"))]
mod chapter7 {
    pub use crate::absent::run;
}
#[cfg(feature = "serve")]
mod chapter8;
#[cfg(not(feature = "serve"))]
mod chapter8 {
    pub use crate::absent::run;
}
#[cfg(feature = "quantized")]
mod chapter9;
#[cfg(not(feature = "quantized"))]
mod chapter9 {
    pub use crate::absent::run;
}

use std::process::ExitCode;

fn main() -> ExitCode {
    let chapters = [
        chapter1::run,
        chapter2::run,
        chapter3::run,
        chapter4::run,
        chapter5::run,
        chapter6::run,
        chapter7::run,
        chapter8::run,
        chapter9::run,
    ];
    let failed: usize = chapters.into_iter().map(|run| run()).sum();
    println!("\n{failed} of the checks on exercises failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
