//! Traces, logs and metrics of every service and of the command line.
//!
//! - [`context`] trace context in and out of messages; used by `bus` and nobody else
//! - [`sampler`] which spans are kept, and which service they belong to

pub mod context;
pub mod sampler;
