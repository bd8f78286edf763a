//! Memory that MPI reads or writes while this process goes on.

use super::comm::Comm;
use mpi::request::{Request, StaticScope};
use mpi::traits::*;
use std::mem;

/// Bytes that MPI may use until they are taken back. Dropped without that they are leaked: MPI may still write there.
pub struct Buffer(*mut [u8]);

// SAFETY: it owns its bytes, as a box does.
unsafe impl Send for Buffer {}

impl Buffer {
    pub fn of(bytes: Vec<u8>) -> Buffer {
        Buffer(Box::into_raw(bytes.into_boxed_slice()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// For MPI to read. One request at a time.
    pub fn get(&self) -> &'static [u8] {
        // SAFETY: the bytes live until `back` takes them, which its callers do after the request's end.
        unsafe { &*self.0 }
    }

    /// For MPI to write. One request at a time.
    #[allow(clippy::mut_from_ref)] // the one that MPI gets
    pub fn get_mut(&self) -> &'static mut [u8] {
        // SAFETY: as for `get`; nothing else looks at the bytes meanwhile.
        unsafe { &mut *self.0 }
    }

    /// The bytes, after the end of the request that used them.
    pub fn back(self) -> Vec<u8> {
        // SAFETY: it came from a box in `of`, and is taken back once.
        unsafe { Box::from_raw(self.0) }.into_vec()
    }
}

/// A message on its way.
pub struct Pending {
    request: Option<Request<'static, [u8], StaticScope>>,
    bytes: Option<Buffer>,
}

// SAFETY: MPI was started with MPI_THREAD_MULTIPLE, so any thread may ask for the end of a request.
unsafe impl Send for Pending {}

impl Pending {
    pub fn send(comm: &Comm, to: i32, bytes: Vec<u8>) -> Pending {
        let bytes = Buffer::of(bytes);
        let request = comm.0.process_at_rank(to).immediate_send(StaticScope, bytes.get());
        Pending { request: Some(request), bytes: Some(bytes) }
    }

    /// Whether it has left.
    pub fn is_done(&mut self) -> bool {
        match self.request.take().map(Request::test) {
            None => true,
            Some(Ok(_)) => {
                self.bytes.take().map(Buffer::back);
                true
            }
            Some(Err(request)) => {
                self.request = Some(request);
                false
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        mem::forget(self.request.take());
    }
}
