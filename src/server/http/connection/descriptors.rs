//! How many files and sockets the process may open.

/// Raises the process's own limit of open files to the system's, and returns it.
///
/// Shells start programs with 1,024, which programs need that call `select`; this one doesn't. If the limit can't be raised, it stays.
#[cfg(target_os = "linux")]
pub fn raise_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to an rlimit of ours, which lives until they return.
    let limit = unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return usize::MAX;
        }
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 { raised } else { limit }
    };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

#[cfg(not(target_os = "linux"))]
pub fn raise_limit() -> usize {
    usize::MAX
}
