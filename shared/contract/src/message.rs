//! The three kinds of traffic: requests, state and streams.

use serde::{Serialize, de::DeserializeOwned};

use crate::NodeName;

/// The first token of every subject.
pub const ROOT: &str = "vpn";

/// What a request is addressed to: `vpn.<service>.<verb>`, or `vpn.<service>.<verb>.<node>` where only
/// one node can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The service that answers.
    pub service: &'static str,
    /// What is asked of it.
    pub verb: &'static str,
    /// Whether repeating the request is free of consequence.
    pub effect: Effect,
    /// Whether it is for one node, whose name is then the last token.
    pub per_node: bool,
}

/// What a request leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it may be retried and sampled at will.
    Reads,
    /// Changed state: always traced, and retried only by who knows what came of it.
    Changes,
    /// Nothing most of the time: said again and again, so never traced.
    Repeats,
}

impl Subject {
    /// A request that only reads.
    pub const fn read(service: &'static str, verb: &'static str) -> Self {
        Self { service, verb, effect: Effect::Reads, per_node: false }
    }

    /// A request that changes state.
    pub const fn change(service: &'static str, verb: &'static str) -> Self {
        Self { service, verb, effect: Effect::Changes, per_node: false }
    }

    /// A request that is sent every so often for as long as its sender lives.
    pub const fn repeated(service: &'static str, verb: &'static str) -> Self {
        Self { service, verb, effect: Effect::Repeats, per_node: false }
    }

    /// The same for a request that only one node can answer.
    #[must_use]
    pub const fn per_node(self) -> Self {
        Self { per_node: true, ..self }
    }

    /// The subject on the bus; `node` narrows it to one node.
    pub fn render(&self, node: Option<&NodeName>) -> String {
        match node {
            None => format!("{ROOT}.{}.{}", self.service, self.verb),
            Some(node) => format!("{ROOT}.{}.{}.{node}", self.service, self.verb),
        }
    }
}

/// A request and its reply, both JSON.
pub trait Request: Serialize + DeserializeOwned + Send + 'static {
    /// Where it goes.
    const SUBJECT: Subject;
    /// What comes back when it succeeds; an [`crate::Error`] comes back otherwise.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// The node it is for, where only one can answer.
    fn node(&self) -> Option<&NodeName> {
        None
    }
}

/// A JetStream key-value bucket: one kind of state with one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Its name, as `nats kv get` takes it.
    pub name: &'static str,
    /// The only service that writes it.
    pub owner: &'static str,
    /// How many revisions of a key are kept for followers that were away.
    pub history: i64,
}

impl Bucket {
    /// The JetStream stream that holds the bucket.
    pub fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    /// The subject of one key.
    pub fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// The key in a subject of this bucket.
    pub fn key<'s>(&self, subject: &'s str) -> Option<&'s str> {
        subject.strip_prefix("$KV.")?.strip_prefix(self.name)?.strip_prefix('.')
    }
}

/// State that lives in a bucket, as JSON. The message that stores it is also the event of its change.
pub trait State: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Where it lives.
    const BUCKET: Bucket;
    /// What can happen to it.
    type Event: EventName;

    /// Its key in the bucket.
    fn key(&self) -> String;
}

/// The name of an event in the header `Vpn-Event`, such as `users.created`.
pub trait EventName: Copy + Send + Sync + 'static {
    /// The name.
    fn name(self) -> &'static str;
}

/// Declares an event enum and its names together.
macro_rules! events {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name { $($(#[$vmeta])* $variant),+ }

        impl $crate::EventName for $name {
            fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}
pub(crate) use events;

/// A JetStream stream of typed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Its name, as `nats stream info` takes it.
    pub name: &'static str,
    /// The subjects it takes in.
    pub subjects: &'static str,
    /// How long a message is kept, in seconds.
    pub max_age_seconds: u64,
    /// How much of it is kept, in bytes; the oldest go first.
    pub max_bytes: i64,
}

/// A message of a stream, as postcard.
///
/// postcard is not self-describing, so every such type is an enum of versions to which versions are
/// only ever appended; golden bytes in `tests/` hold the shipped ones in place.
pub trait Streamed: Serialize + DeserializeOwned + Send + 'static {
    /// Where it goes.
    const STREAM: Stream;

    /// Its subject.
    fn subject(&self) -> String;

    /// What names it alone, for de-duplication (`Nats-Msg-Id`).
    fn id(&self) -> String;
}
