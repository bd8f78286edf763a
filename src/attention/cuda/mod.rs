//! Attention on a device: pools of blocks in its memory, and the kernels that follow their tables.

#[cfg(feature = "step6")]
mod flash;
mod paged;

#[cfg(feature = "step6")]
pub use FlashCuda as OnDevice;
/// The best attention on a device so far.
#[cfg(not(feature = "step6"))]
pub use PagedCuda as OnDevice;
#[cfg(feature = "step6")]
pub use flash::{FLASH_ROWS, FlashCuda};
pub use paged::PagedCuda;
