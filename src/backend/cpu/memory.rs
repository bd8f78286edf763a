//! How much memory the system has left.

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
