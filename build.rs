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
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).debug(true).warnings(true).extra_warnings(true);
    // Kernels read 16 bytes of smaller numbers through a wider type; the pragmas are nvcc's.
    build.flag("-fno-strict-aliasing").flag("-Wno-unknown-pragmas").flag("-pthread");
    if std::env::var_os("STAIRWELL_UCONTEXT").is_some() {
        build.define("SIMULATOR_UCONTEXT", None);
    }
    if let Ok(sanitizer) = std::env::var("STAIRWELL_SANITIZE") {
        build.flag(format!("-fsanitize={sanitizer}"));
        let library = if sanitizer == "thread" { "tsan" } else { "asan" };
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
        println!("cargo:rustc-link-arg=-l{library}");
    }
    build.file("kernels/simulator/main.cpp");
    if let Err(error) = build.try_compile("stairwell_simulator") {
        panic!(
            "step 5 compiles its kernels with a C++20 compiler, and that failed: {error}\n\
             install g++ 11 or clang 14, or newer (Debian, Ubuntu: apt install g++), or build with --features step4"
        );
    }
}
