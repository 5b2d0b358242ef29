//! Flows across all services, through the programs that people have.
//!
//! - [`natscli`]   the bus as a person meets it with the `nats` command
//! - [`access`]    who gets through, from when on and until when
//! - [`isolation`] what users do not reach
//! - [`bad_input`] what is refused, with which words and how soon
//! - [`lacking`]   buses and daemons that are not what they should be, disks that are full
//! - [`chaos`]     any part killed while users are being created
//!   - [`creation`] those users
//! - [`dockerd`]   the same for the container daemon
//! - [`agent`]     an agent that dies, and comes back without the bus
//! - [`secrets`]   what must be nowhere in the open
//! - [`events`]    what happens to containers
//! - [`usage`]     what users send and receive
//! - [`way`]       one user's way through one server
//! - [`world`]     a house with servers, users and sites
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, reason = "figures and seeds are for who reads the log of a test")]

mod access;
mod agent;
mod bad_input;
mod chaos;
mod creation;
mod dockerd;
mod events;
mod isolation;
mod lacking;
mod natscli;
mod secrets;
mod usage;
mod way;
mod world;
