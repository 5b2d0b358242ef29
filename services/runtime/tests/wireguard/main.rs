//! WireGuard with real parts: the device as a process in a network of its own, and `gotatun` as the users' clients.
//! It takes root, for the networks, and `vpnd`, which `make test` builds before: the device is a part of it.
//!
//! - [`world`]   what the tests share
//! - `traffic`   pages through the tunnel, and how fast access begins and ends
//! - `refused`   what users may not reach
//! - `process`   what the device may do, leaves behind, and weighs
//! - `many`      ten thousand users
//! - `backends`  as a child process and as a container
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of it is tests, their helpers too"
)]

mod backends;
mod many;
mod process;
mod refused;
mod traffic;
mod world;
