//! The driver: whether it is there, what it has, and what its errors say. cudarc panics where a library is missing, so that is asked first.

use crate::error::{Error, Result};
use crate::words::field;
use cudarc::driver::{result, sys};

/// The oldest driver that has all the calls made here (graphs, and launches with more than 48 KiB of shared memory), as CUDA numbers
/// it: 1000 · major + 10 · minor.
const OLDEST: i32 = 12_000;

/// Makes an error of ours of one of the driver's.
pub(super) trait Failed<T> {
    /// The error as one line: what was done, what the driver says.
    fn or_say(self, what: &str) -> Result<T>;
}

impl<T> Failed<T> for Result<T, result::DriverError> {
    fn or_say(self, what: &str) -> Result<T> {
        self.map_err(|error| {
            let said = error.error_string().map_or("unknown error".into(), |text| text.to_string_lossy());
            Error::Device(format!("the GPU's driver failed in {what}: {said} ({:?})", error.0))
        })
    }
}

/// How many devices there are: one at least.
///
/// # Errors
/// Without a driver, with one that is too old, or without a device.
pub(super) fn devices() -> Result<usize> {
    let no = |why: String| {
        let instead = "sim needs no GPU, and cpu is the default without one";
        let why = format!("{why}; {} {instead}", field("device")).into();
        Err(Error::Parameter { field: "device", value: "cuda".into(), why })
    };
    // SAFETY: loads the driver's library, which is made to be loaded.
    if !unsafe { sys::is_culib_present() } {
        return no("there is no NVIDIA driver (libcuda was not found)".into());
    }
    if let Err(result::DriverError(code)) = result::init() {
        return match code {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => no("the NVIDIA driver finds no GPU".into()),
            code => no(format!("the NVIDIA driver does not start ({code:?}); does nvidia-smi work?")),
        };
    }
    let version = version()?;
    if version < OLDEST {
        let [has, needs] = [version, OLDEST].map(dotted);
        return no(format!("the NVIDIA driver is for CUDA {has}, and {needs} or newer is needed; update it"));
    }
    match result::device::get_count() {
        Ok(n) if n > 0 => Ok(n as usize),
        _ => no("the NVIDIA driver finds no GPU (is one hidden by CUDA_VISIBLE_DEVICES?)".into()),
    }
}

/// The newest CUDA that the driver is for: 13000 is 13.0.
///
/// # Errors
/// Those of the driver.
pub(super) fn version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: it writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().or_say("asking for its version")?;
    Ok(version)
}

/// 13000 as 13.0.
pub(super) fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}
