//! What tests need: real programs, started in milliseconds, ended for certain.
//!
//! - [`http`]     one GET over any stream
//! - [`jaeger`]   the real Jaeger
//! - [`nats`]     a private nats-server per test: kill it, restart it, limit it
//! - [`netns`]    networks of a test's own
//! - [`otlp`]     a collector of spans
//! - [`process`]  a child that ends with its value, and with the test process at the latest
//! - [`programs`] where the pinned programs are; a missing one says how to install it
//! - [`ports`]    ports that nobody else takes
//! - [`sites`]    the TLS site that REALITY hides behind, and the page that a user wants
//! - [`wait`]     wait for a condition, never for a while
//! - [`wireguard_client`] a user's client: another `gotatun`
//! - [`xray_client`] a user's client: the real Xray, for one link or for hundreds
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot set up its surroundings has failed, and the panic says where"
)]

pub mod http;
pub mod jaeger;
pub mod nats;
pub mod netns;
pub mod otlp;
pub mod ports;
pub mod process;
pub mod programs;
pub mod sites;
pub mod wait;
pub mod wireguard_client;
pub mod xray_client;
