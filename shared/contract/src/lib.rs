//! Every message of the house, with its subject and meaning, and nothing that does I/O.
//!
//! - [`message`]  the three kinds of traffic as traits: [`Request`], [`State`], [`Streamed`]
//! - [`error`]    what every service answers when it refuses: [`Error`] and the catalogue of [`Code`]s
//! - [`name`]     names that cannot hold a bad value: [`UserName`], [`ServerName`], [`NodeName`], …
//! - [`value`]    quantities and addresses: [`ByteCount`], [`Port`], [`HostPort`], [`Protocol`], …
//! - [`users`]    accounts: `vpn.users.*`, bucket `vpn_users`
//! - [`keys`]     credentials: `vpn.keys.*`, buckets `vpn_credentials`, `vpn_server_keys`, `vpn_grants`,
//!   `vpn_prekeys`
//! - [`fleet`]    nodes and servers: `vpn.fleet.*`, buckets `vpn_nodes`, `vpn_servers`
//! - [`runtime`]  what really runs: `vpn.runtime.*`, bucket `vpn_instances`, stream `vpn.event.*`
//! - [`usage`]    what users send and receive: stream `vpn.usage.*`
//! - [`stats`]    the totals and the history of that: `vpn.stats.*`

pub mod error;
pub mod fleet;
pub mod keys;
pub mod message;
pub mod name;
pub mod runtime;
pub mod stats;
pub mod usage;
pub mod users;
pub mod value;

pub use error::{Code, Error, Invalid};
pub use jiff::Timestamp;
pub use message::{Bucket, Effect, EventName, Request, State, Stream, Streamed, Subject};
pub use name::{ImageRef, NodeName, Note, ServerName, Tag, UserName};
pub use value::{ByteCount, HostPort, Port, Protocol, WireguardAddress};
