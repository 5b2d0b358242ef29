//! `vpn` as people and programs use it: the real binary, a real bus, the real services.
//!
//! - [`world`]    a bus, the services, and `vpn` to run against them
//! - `users`, `servers`, `keys` the verbs, in all three formats
//! - `links`      what clients import: decoded QR codes, modes of files
//! - `errors`     what is refused, with which code and exit code, and how fast
//! - `terminal`   colours and words for people only
//! - `traces`     one trace from the command to the services
//! - `help`       what needs no bus: help, explain, completions
//! - `up`         from nothing to a running server and back, with the real `vpnd`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod errors;
mod help;
mod keys;
mod links;
mod servers;
mod terminal;
mod traces;
mod up;
mod users;
mod world;
