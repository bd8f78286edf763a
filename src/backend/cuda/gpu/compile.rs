//! The kernels for this GPU: NVIDIA's run-time compiler (NVRTC) makes a cubin of the sources that this program carries.

use super::driver::dotted;
use crate::error::{Error, Result};
use crate::words::field;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString};
use std::fs;
use std::path::{Path, PathBuf};

/// The oldest GPU whose tensor cores know bf16: Ampere.
const OLDEST: (i32, i32) = (8, 0);

/// The kernel files, and what they include of ours.
const FILES: [(&CStr, &str); 16] = [
    (c"embedding.cu", include_str!("../../../../kernels/embedding.cu")),
    (c"norm.cu", include_str!("../../../../kernels/norm.cu")),
    (c"elementwise.cu", include_str!("../../../../kernels/elementwise.cu")),
    (c"matmul.cu", include_str!("../../../../kernels/matmul.cu")),
    (c"quant_matmul.cu", include_str!("../../../../kernels/quant_matmul.cu")),
    (c"quant_rows.cu", include_str!("../../../../kernels/quant_rows.cu")),
    (c"kv_cache.cu", include_str!("../../../../kernels/kv_cache.cu")),
    (c"sampling.cu", include_str!("../../../../kernels/sampling.cu")),
    (c"paged_attention.cu", include_str!("../../../../kernels/paged_attention.cu")),
    (c"flash_attention.cu", include_str!("../../../../kernels/flash_attention.cu")),
    (c"flash_attention_sm90.cu", include_str!("../../../../kernels/flash_attention_sm90.cu")),
    (c"common.cuh", include_str!("../../../../kernels/common.cuh")),
    (c"paged_cache.cuh", include_str!("../../../../kernels/paged_cache.cuh")),
    (c"flash_attention.cuh", include_str!("../../../../kernels/flash_attention.cuh")),
    (c"hopper.cuh", include_str!("../../../../kernels/hopper.cuh")),
    (c"ptx.cuh", include_str!("../../../../kernels/ptx.cuh")),
];

/// A cubin with all kernels.
///
/// # Errors
/// Without NVRTC or CUDA's headers, with an NVRTC that is newer than the driver, for a GPU that is too old, and if a kernel does not
/// compile.
pub(super) fn kernels(architecture: (i32, i32), driver_version: i32) -> Result<Vec<u8>> {
    let (major, minor) = architecture;
    if architecture < OLDEST {
        let old = format!(
            "the GPU's architecture is {major}.{minor}, and the kernels need {}.{} (Ampere) or newer; use {} cpu",
            OLDEST.0,
            OLDEST.1,
            field("device")
        );
        return Err(Error::Limit(old.into()));
    }
    // SAFETY: loads NVIDIA's library, which is made to be loaded.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Device(
            "NVRTC, which compiles the kernels for the GPU, was not found (libnvrtc); install the CUDA toolkit, or `pip install \
             nvidia-cuda-nvrtc nvidia-cuda-runtime` and name its lib folder in LD_LIBRARY_PATH"
                .into(),
        ));
    }
    let (mut nvrtc_major, mut nvrtc_minor) = (0, 0);
    // SAFETY: it writes two numbers.
    let asked = unsafe { sys::nvrtcVersion(&raw mut nvrtc_major, &raw mut nvrtc_minor) };
    check(asked, "asking for its version")?;
    if nvrtc_major > driver_version / 1000 {
        let driver = dotted(driver_version);
        return Err(Error::Device(format!(
            "the NVIDIA driver is for CUDA {driver}, and NVRTC is that of CUDA {nvrtc_major}.{nvrtc_minor}; update the driver, or \
             install NVRTC {}",
            driver_version / 1000
        )));
    }
    let names = FILES.iter().filter_map(|(name, _)| name.to_str().ok());
    let kernels = names.filter(|name| name.ends_with(".cu"));
    let source: String = kernels.map(|name| format!("#include \"{name}\"\n")).collect();
    // sm_90a has what only a Hopper has (wgmma, TMA).
    let suffix = if major == 9 { "a" } else { "" };
    let options = [
        format!("--gpu-architecture=sm_{major}{minor}{suffix}"),
        "--std=c++17".into(),
        format!("--include-path={}", headers()?.display()),
    ];
    compile(&source, &options)
}

/// Runs NVRTC.
fn compile(source: &str, options: &[String]) -> Result<Vec<u8>> {
    let text = |text: &str| CString::new(text).map_err(|e| Error::Device(e.to_string()));
    let files = FILES.iter().map(|(_, file)| text(file)).collect::<Result<Vec<_>>>()?;
    let contents: Vec<_> = files.iter().map(|file| file.as_ptr()).collect();
    let included = FILES.map(|(name, _)| name.as_ptr());
    let (source, mut program) = (text(source)?, std::ptr::null_mut());
    // SAFETY: all texts live until the program is destroyed, below.
    unsafe {
        let count = contents.len() as i32;
        let created = sys::nvrtcCreateProgram(
            &raw mut program,
            source.as_ptr(),
            c"kernels.cu".as_ptr(),
            count,
            contents.as_ptr(),
            included.as_ptr(),
        );
        check(created, "taking the kernels' sources")?;
        let failed = |log| Error::Device(format!("the kernels do not compile for this GPU:\n{log}"));
        let compiled = result::compile_program(program, options).map_err(|_| failed(log(program)));
        let cubin = compiled.and_then(|()| cubin(program));
        let _ = result::destroy_program(program);
        cubin
    }
}

/// # Safety
/// A program that was compiled.
unsafe fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>> {
    let mut size = 0;
    // SAFETY: it writes one number, and then so many bytes.
    unsafe {
        check(sys::nvrtcGetCUBINSize(program, &raw mut size), "giving the size of a cubin")?;
        let mut bytes = vec![0; size];
        check(sys::nvrtcGetCUBIN(program, bytes.as_mut_ptr().cast()), "giving a cubin")?;
        Ok(bytes)
    }
}

/// # Safety
/// A program whose compilation was tried.
unsafe fn log(program: sys::nvrtcProgram) -> String {
    // SAFETY: as above; the text ends with a zero.
    let log = unsafe { result::get_program_log(program) }.unwrap_or_default();
    log.iter().map(|c| *c as u8 as char).collect::<String>().trim_end_matches(['\0', '\n']).to_owned()
}

fn check(result: sys::nvrtcResult, what: &str) -> Result<()> {
    match result {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        error => Err(Error::Device(format!("NVRTC failed in {what}: {error:?}"))),
    }
}

/// The folder with cuda_bf16.h: of the toolkit that the environment names, beside the library, or where toolkits are.
fn headers() -> Result<PathBuf> {
    let named =
        ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| Some(PathBuf::from(std::env::var_os(name)?)));
    let installed = named.map(|home| home.join("include")).chain(beside_the_library());
    let places: Vec<PathBuf> = installed.chain([PathBuf::from("/usr/local/cuda/include")]).collect();
    let found = places.iter().find(|place| place.join("cuda_bf16.h").is_file());
    found.cloned().ok_or_else(|| {
        let tried: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Error::Device(format!(
            "CUDA's headers, which the kernels include (cuda_bf16.h), were not found in {}; set CUDA_HOME to the toolkit's folder",
            tried.join(", ")
        ))
    })
}

/// The include folder of the installation that libnvrtc is from, where the system says what is loaded (Linux).
fn beside_the_library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let mut loaded = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let path = loaded.find(|path| path.contains("libnvrtc.so"))?;
    let library = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    Some(library.parent().and_then(Path::parent)?.join("include"))
}
