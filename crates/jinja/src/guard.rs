//! A library that reads data from elsewhere may panic on it. Here a panic becomes an error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// Runs code of the crate `library`. A panic in it is an error and prints nothing.
pub fn caught<T>(library: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    result.unwrap_or_else(|payload| {
        let said = payload.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it does not say why");
        Err(format!("the {library} crate panics on it ({})", said.lines().next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_one_line() {
        let said = caught("tokenizers", || -> Result<(), String> { panic!("broken\nin two") }).unwrap_err();
        assert_eq!(said, "the tokenizers crate panics on it (broken)");
        assert_eq!(caught("a", || Ok(caught("b", || Ok(1)))), Ok(Ok(1)));
    }
}
