//! The node agent: what the fleet wants on this node becomes containers, and the users' credentials reach
//! the engines in them.
//!
//! - [`backend`]  the trait [`backend::ContainerRuntime`] and what is behind it: Docker, child processes
//! - [`engine`]   the trait [`engine::Engine`] and what is behind it: Xray, WireGuard
//! - [`netns`]    work in an instance's network namespace
//! - [`sockets`]  ending other programs' connections

pub mod backend;
pub mod engine;
pub mod netns;
pub mod sockets;
