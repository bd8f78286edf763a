//! Attention: the only place where tokens meet.

pub mod cpu;
