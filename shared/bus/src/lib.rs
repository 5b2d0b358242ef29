//! NATS as the house uses it: three kinds of traffic, and what each needs to be dependable.
//!
//! - [`config`]   how to reach the bus; the same contexts as the `nats` command reads
//! - [`Bus`]      the connection; refuses a server that is too old or has no JetStream
//! - [`call`]     requests as a client: `bus.call(users::Get { .. })`
//! - [`service`]  requests as a service: routing table, deadlines, bounded concurrency, panics
//! - [`overhear`] requests as a bystander: what others ask of whoever answers
//! - [`bucket`]   state: guarded writes whose message is the event, atomic batches
//! - [`watch`]    state as it is and changes: the last revision of every key, then what follows
//! - [`feed`]     state as it changed: every revision once and in order, across restarts
//! - [`stream`]   typed streams, and the stream of dead letters
//! - [`reader`]   a typed stream from a position on
//! - [`insist()`] what has to happen however long the bus is away
//! - [`origin`]   who caused what is being done, and the headers that say so
//! - [`start`]    starting while the bus is not there yet
//! - [`shutdown`] tracked tasks and one deadline for all of them
//! - [`error`]    what can go wrong, as errors of the catalogue

pub mod bucket;
pub mod call;
pub mod config;
mod connection;
pub mod error;
pub mod feed;
mod insist;
mod jetstream;
pub mod origin;
pub mod overhear;
pub mod reader;
pub mod service;
pub mod shutdown;
mod start;
pub mod stream;
pub mod watch;

pub use bucket::{Bucket, Entry, Write};
pub use config::{Auth, Config};
pub use connection::Bus;
pub use feed::Feed;
pub use insist::insist;
pub use origin::Origin;
pub use reader::Reader;
pub use service::Service;
pub use shutdown::Shutdown;
pub use start::start;
pub use watch::{Change, View, Watch};
