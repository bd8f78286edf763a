//! The system's memory: how much is left, and large pieces of it.

use memmap2::MmapMut;
use std::io::{Error, ErrorKind, Result};
use sysinfo::System;

/// What is assumed where the system does not tell.
const UNKNOWN: u64 = 4_000_000_000;

/// Bytes of memory that the system could give: what is available, or what is left of the control group's limit.
pub(crate) fn free_memory() -> u64 {
    let Ok(mut system) = System::new() else { return UNKNOWN };
    system.refresh_memory();
    let left = |group: sysinfo::CGroupLimits| group.total_memory.saturating_sub(group.rss);
    system.available_memory().min(system.cgroup_limits().map_or(u64::MAX, left))
}

/// At least n bytes, zeros, on large pages where the system has them: a matrix of many 4 kB pages is read a fifth slower.
///
/// # Errors
/// If there is no memory for them. The system would promise more than it has, and end the process later.
pub(crate) fn large_pages(n: usize) -> Result<MmapMut> {
    if n as u64 > free_memory() {
        return Err(Error::from(ErrorKind::OutOfMemory));
    }
    let bytes = MmapMut::map_anon(n.max(1))?;
    #[cfg(target_os = "linux")]
    let _ = bytes.advise(memmap2::Advice::HugePage); // a wish: refused where the kernel has none
    Ok(bytes)
}
