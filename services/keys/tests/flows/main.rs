//! The service over a real nats-server, next to the real `users` and `fleet`.
//!
//! - [`world`]    a bus with the three services on it; `keys` can be killed
//! - [`users`]    credentials follow users, whatever happens meanwhile
//! - [`restarts`] kills in the midst of creations
//! - [`links`]    what a client imports
//! - [`grants`]   which node may open what
//! - [`master`]   the master key: missing, exposed, damaged, another
//! - [`secrets`]  nothing that is secret is anywhere in the open
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

mod grants;
mod links;
mod master;
mod prekeys;
mod restarts;
mod secrets;
mod users;
mod world;
