//! One suite for all backends: what [`runtime::backend::ContainerRuntime`] promises, on the fake, on child
//! processes and on a real Docker daemon; and for each backend what only it has.
//!
//! - [`site`]     a backend of a test's own, and how to make its instances do things
//! - [`promises`] what every backend keeps
//! - [`bonds`]    what binds instances, looked at from outside: `process` and `docker`
//! - [`docker`]   a daemon that hangs, goes away, is asked twice
//! - [`daemon`]   a daemon that is killed, as a real one of a test's own
//! - [`process`]  agents that are killed, and what their children do then
//! - [`fake`]     faults as a test wants them
//! - [`detect`]   which backend is chosen
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of it is tests, their helpers too"
)]

mod bonds;
mod daemon;
mod detect;
mod docker;
mod fake;
mod process;
mod promises;
mod site;
