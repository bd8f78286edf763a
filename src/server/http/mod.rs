//! The edge: connections, keys, bodies and errors, before any handler sees a request.

pub mod access;
pub mod body;
pub mod closing;
pub mod connection;
pub mod error;
pub mod fallback;
pub mod openapi;
pub mod page;
pub mod sse;
