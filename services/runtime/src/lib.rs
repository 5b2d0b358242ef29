//! The node agent: what the fleet wants on this node becomes containers, and the users' credentials reach
//! the engines in them.
//!
//! - [`backend`]  the trait [`backend::ContainerRuntime`] and what is behind it: Docker, child processes
//! - [`engine`]   the trait [`engine::Engine`] and what is behind it: Xray, WireGuard

pub mod backend;
pub mod engine;
