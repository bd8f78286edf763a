//! The device that tests of kernels run on: the simulated one, or a GPU with STAIRWELL_TEST_DEVICE=cuda (scripts/on_gpu.sh).
#![allow(dead_code)] // each test file uses a part of it

use stairwell::backend::cuda::{Device, Gpu, Schedule, Simulated};
use std::sync::{Arc, OnceLock};

/// A new simulated device, or the GPU.
pub fn device() -> Arc<dyn Device> {
    device_in(Schedule::Forward)
}

/// The same with an order of threads, which a GPU chooses itself.
pub fn device_in(schedule: Schedule) -> Arc<dyn Device> {
    static GPU: OnceLock<Option<Arc<dyn Device>>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| match std::env::var("STAIRWELL_TEST_DEVICE").as_deref() {
        Ok("cuda") => Some(Arc::new(Gpu::open(0).expect("a GPU"))),
        Ok(other) => {
            panic!("STAIRWELL_TEST_DEVICE is '{other}'; cuda is the only one beside the simulated device")
        }
        Err(_) => None,
    });
    gpu.clone().unwrap_or_else(|| Arc::new(Simulated::with_schedule(schedule)))
}
