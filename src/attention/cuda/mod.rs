//! Attention on a device: a pool of blocks in its memory, and kernels that follow the block tables.

#[cfg(feature = "step6")]
mod flash;
mod paged;

#[cfg(feature = "step6")]
pub use FlashCuda as OnDevice;
/// The best attention on a device that this build has.
#[cfg(not(feature = "step6"))]
pub use PagedCuda as OnDevice;
#[cfg(feature = "step6")]
pub use flash::{FLASH_ROWS, FlashCuda};
pub use paged::PagedCuda;
