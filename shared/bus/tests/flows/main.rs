//! What the bus promises, on a real nats-server.
//!
//! - [`world`]    a service, a kind of state, and what tests ask of them
//! - [`requests`] every request is answered: bugs, deadlines, bad input, too many at once, a service that stops
//! - [`writes`]   guarded writes and batches, also while the server is killed
//! - [`follow`]   feeds and watches across restarts of everything; dead letters
//! - [`wire`]     a connection that breaks while something is on its way
//! - [`again`]    buckets that begin again: a restored backup, a stream made anew
//! - [`tasks`]    tasks that panic, and starts that wait for the bus
//! - [`servers`]  servers that will not do, and streams that somebody configured otherwise
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

mod again;
mod follow;
mod requests;
mod servers;
mod tasks;
mod wire;
mod world;
mod writes;
