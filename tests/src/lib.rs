//! The whole house at work, for the demo, the measurements and the tests across services.
//!
//! - [`house`]    `vpnd all` with a bus, an agent and sites of its own
//! - [`programs`] the programs that users have: `vpnd`, `vpn`, `nats`
//! - [`internet`] the sites that users want, in a network of their own
//! - `sweep`      takes away what a house leaves that was killed
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "who cannot set up what is to be shown has failed, and the panic says where"
)]

pub mod house;
pub mod internet;
pub mod programs;
mod sweep;

pub use house::House;
