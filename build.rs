//! Compiles the kernels for the simulator (step 5): the same files that a GPU runs, by the host's C++ compiler.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "step5")]
    simulator();
}

/// Kernels at -O2 in every profile: without optimisation they are eight times slower. `STAIRWELL_SANITIZE=thread` or `address` builds
/// them for a sanitizer (scripts/sanitize_kernels.sh).
#[cfg(feature = "step5")]
fn simulator() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-env-changed=STAIRWELL_SANITIZE");
    println!("cargo:rerun-if-env-changed=STAIRWELL_UCONTEXT");
    for file in ["exercise.cu", "lesson.cu", "solution.cu", "wrong.cu"] {
        println!("cargo:rerun-if-changed=steps/step5-paged-attention/{file}");
    }
    for file in ["exercise.cu", "solution.cu", "wrong.cu"] {
        println!("cargo:rerun-if-changed=steps/step6-flash-attention/{file}");
    }
    let sanitizer = std::env::var("STAIRWELL_SANITIZE").ok();

    // What the compiler says of the reader's exercises becomes warnings, and everything else is built without them.
    let mut exercise = compiler();
    exercise.opt_level(0).debug(false).cargo_metadata(false).flag("-Wno-unused-function");
    exercise.file("kernels/simulator/exercise.cpp");
    let broken = exercise.try_compile("stairwell_exercise").is_err();
    let compiler = || {
        let mut build = compiler();
        if broken {
            build.define("SIMULATOR_EXERCISE_BROKEN", None);
        }
        build
    };

    // Linked first, so that the simulator's own functions, which both have, are those without calls.
    let mut build = compiler();
    if let Some(sanitizer) = &sanitizer {
        build.debug(true).flag(format!("-fsanitize={sanitizer}")).define("SIMULATOR_SANITIZED", None);
        let library = if sanitizer == "thread" { "tsan" } else { "asan" };
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo:rustc-link-arg=-l{library}");
    }
    build.file("kernels/simulator/main.cpp").file("kernels/simulator/counters.cpp");

    // The kernels that tell of each access: ThreadSanitizer's calls, with functions of our own behind them, which look up the access's line.
    // A sanitizer has those functions itself.
    let mut counted = compiler();
    counted.flag("-g1").flag("-fsanitize=thread").file("kernels/simulator/counted.cpp").cargo_metadata(false);
    if counted.get_compiler().is_like_clang() {
        counted.flag("-mllvm").flag("-tsan-instrument-read-before-write");
    }
    std::thread::scope(|both| {
        if sanitizer.is_none() {
            both.spawn(|| compile(&counted, "stairwell_counted"));
        }
        compile(&build, "stairwell_simulator");
    });
    if sanitizer.is_none() {
        println!("cargo:rustc-link-lib=static=stairwell_counted");
    }
}

#[cfg(feature = "step5")]
fn compiler() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).debug(false).warnings(true).extra_warnings(true);
    // Kernels read 16 bytes of smaller numbers through a wider type; the pragmas are nvcc's.
    build.flag("-fno-strict-aliasing").flag("-Wno-unknown-pragmas").flag("-pthread");
    if cfg!(feature = "step6") {
        build.define("STAIRWELL_STEP6", None);
    }
    if cfg!(feature = "quantized") {
        build.define("STAIRWELL_QUANTIZED", None);
    }
    if std::env::var_os("STAIRWELL_UCONTEXT").is_some() {
        build.define("SIMULATOR_UCONTEXT", None);
    }
    build
}

#[cfg(feature = "step5")]
fn compile(build: &cc::Build, name: &str) {
    if let Err(error) = build.try_compile(name) {
        // One line: cargo shows it as an error of this package.
        println!(
            "cargo::error=step 5 compiles its kernels with a C++20 compiler, and that failed ({error}); install g++ 11 or clang 14, or newer \
             (Debian, Ubuntu: apt install g++), or build with --features step4"
        );
        std::process::exit(1);
    }
}
