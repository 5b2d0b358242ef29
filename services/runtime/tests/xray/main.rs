//! The Xray engine against the real Xray: as server, started as the engine says, and as client.
//!
//! - [`server`]       a server of a test's own, and its users
//! - [`proxy`]        a client with UDP, and an address of its choice
//! - [`connect`]      users come and go while others are connected
//! - [`cut`]          sessions end with access, whoever was looking
//! - [`destinations`] what users do not reach
//! - [`backends`]     as a child process and in a container
//! - [`scale`]        10,000 users
//! - [`file`]         any configuration is one that Xray reads
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of it is tests, their helpers too"
)]

mod backends;
mod connect;
mod cut;
mod destinations;
mod expected;
mod file;
mod proxy;
mod scale;
mod server;
