//! What one rendering may cost. A template comes with the checkpoint, so it may be hostile: `{{ 'x' * 10**12 }}`.
//!
//! minijinja's fuel bounds the instructions. The bytes that instructions make and look through are counted here, in
//! the thread that renders.

use std::cell::Cell;

use minijinja::{Error, ErrorKind};

/// Instructions of one rendering: a chat of 1,000 messages takes some 100,000.
const STEPS: usize = 2_000_000;
/// Bytes that a rendering may make whatever its input, and for each byte of its input. All strings count, because
/// a template may keep them all.
const BYTES: (usize, usize) = (16 << 20, 40);
/// Bytes that it may look through for each that it may make.
const LOOKS: usize = 4;
/// What looking at one value counts.
pub(super) const VALUE: usize = 64;
/// What a list, tuple or mapping counts at least. It also bounds how deep a template can nest them.
pub(super) const CONTAINER: usize = 256;
/// Lists within lists beyond this are refused: Python has a recursion limit too.
pub(super) const DEPTH: usize = 300;

thread_local! {
    static BUDGET: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Begins a rendering in this thread; gives its fuel. `input` is the template and the messages in bytes.
pub(super) fn begin(input: usize) -> u64 {
    let bytes = BYTES.0.saturating_add(input.saturating_mul(BYTES.1));
    BUDGET.set((bytes, bytes.saturating_mul(LOOKS)));
    STEPS.saturating_add(input.saturating_mul(64)) as u64
}

/// Counts bytes that are about to be made.
///
/// # Errors
/// When the rendering has made too many.
pub(super) fn make(bytes: usize) -> Result<(), Error> {
    let (left, looks) = BUDGET.get();
    let left = left.checked_sub(bytes).ok_or_else(|| bad("it makes too much text or too many values"))?;
    BUDGET.set((left, looks));
    Ok(())
}

/// Whether bytes that are needed for a moment would still be within the budget.
///
/// # Errors
/// If not.
pub(super) fn fits(bytes: usize) -> Result<(), Error> {
    match bytes <= BUDGET.get().0 {
        true => Ok(()),
        false => Err(bad("it makes too much text or too many values")),
    }
}

/// Counts bytes that are about to be compared or searched.
///
/// # Errors
/// When the rendering has looked through too many.
pub(super) fn look(bytes: usize) -> Result<(), Error> {
    let (left, looks) = BUDGET.get();
    let looks = looks.checked_sub(bytes).ok_or_else(|| bad("it compares or searches too much"))?;
    BUDGET.set((left, looks));
    Ok(())
}

/// The error with this text.
pub(super) fn bad(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}
