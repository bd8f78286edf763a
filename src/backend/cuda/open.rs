//! Which device a run gets.

use super::{Cuda, Simulated};
use crate::{
    error::{Error, Result},
    machine::DeviceKind,
};
use std::sync::Arc;

/// The device that is asked for; `None` for the CPU. Without a question: a GPU if there is one, the CPU otherwise.
///
/// # Errors
/// If it is not there, with the reason.
pub fn open(asked: Option<DeviceKind>) -> Result<Option<Cuda>> {
    match asked {
        Some(DeviceKind::Cpu) => Ok(None),
        Some(DeviceKind::Sim) => Ok(Some(Cuda::new(Arc::new(Simulated::default())))),
        Some(DeviceKind::Cuda) => {
            let message = "--device cuda: this build has no driver for GPUs yet; use --device sim or cpu";
            Err(Error::Usage(message.into()))
        }
        None => Ok(None),
    }
}
