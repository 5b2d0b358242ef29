//! The service over a real nats-server, asked as others ask it.
//!
//! - [`world`]     a bus, replicas of the service, announcements
//! - [`verbs`]     what each request does, and the event it leaves
//! - [`clashes`]   many at once: one port, one server
//! - [`nodes`]     joined, changed, lost, returned
//! - [`restarts`]  of the service and of the bus
//! - [`dest`]      what a node says of a REALITY dest
//! - [`bad_input`] raw payloads and the codes that answer them
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

mod bad_input;
mod clashes;
mod dest;
mod nodes;
mod restarts;
mod verbs;
mod world;
