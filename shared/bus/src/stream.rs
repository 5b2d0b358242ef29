//! Typed streams, and the stream of dead letters.

use async_nats::{HeaderMap, jetstream::Message};
use contract::{Code, Error, Stream, Streamed};

use crate::{
    Bus,
    bucket::BATCH_ID,
    error::{Refusal, jetstream_failed},
    jetstream,
    origin::{self, REASON, WRITE},
};

/// What could not be handled, whatever it was: kept for a person to look at.
pub const DEAD: Stream = Stream {
    name: "vpn_dead",
    subjects: "vpn.dead.>",
    max_age_seconds: 30 * 24 * 3600,
    max_bytes: 64 * 1024 * 1024,
};

impl Bus {
    /// Makes the stream of a message type, or brings it in line.
    pub async fn own_stream<M: Streamed>(&self) -> Result<(), Error> {
        jetstream::ensure(self, jetstream::of_stream(&M::STREAM)).await.map(drop)
    }

    /// Makes the stream of dead letters, or brings it in line. Every service that follows a feed does.
    pub async fn own_dead_letters(&self) -> Result<(), Error> {
        jetstream::ensure(self, jetstream::of_stream(&DEAD)).await.map(drop)
    }

    /// Publishes to a stream; returns when it is stored. The same message twice is stored once.
    pub async fn publish<M: Streamed>(&self, message: &M) -> Result<(), Error> {
        let body =
            postcard::to_allocvec(message).map_err(|error| Error::new(Code::INTERNAL, error.to_string()))?;
        let mut headers = origin::headers(self.name());
        headers.insert(async_nats::header::NATS_MESSAGE_ID, message.id().as_str());
        self.store(message.subject(), headers, body.into()).await
    }

    async fn store(&self, subject: String, headers: HeaderMap, body: bytes::Bytes) -> Result<(), Error> {
        let unreachable =
            || Error::new(Code::BUS_UNREACHABLE, format!("publish {subject}: the bus is not there"));
        // What is published without a connection waits in it, and so would every further try.
        if self.connection().is_none() {
            return Err(unreachable());
        }
        let publish =
            async { self.jetstream.publish_with_headers(subject.clone(), headers, body).await?.await };
        let stored = self.while_connected(publish).await.ok_or_else(unreachable)?;
        stored.map(drop).map_err(|error| match Refusal::of_publish(&error) {
            Refusal::Final(error) => error,
            _ => jetstream_failed(&format!("publish {subject}"), &error),
        })
    }
}

/// Keeps a message that could not be handled, with where it came from and why.
pub(crate) async fn bury(
    bus: &Bus,
    bucket: &str,
    feed: &str,
    message: &Message,
    error: &Error,
) -> Result<(), Error> {
    let mut headers = message.headers.clone().unwrap_or_default();
    let sequence = message.info().map(|info| info.stream_sequence).unwrap_or_default();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, format!("{bucket}:{feed}:{sequence}").as_str());
    headers.insert("Vpn-Dead-Subject", message.subject.as_str());
    headers.insert("Vpn-Dead-Sequence", sequence.to_string().as_str());
    let why: String = error.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
    headers.insert(REASON, why.as_str());
    if let Some(batch) = headers.get(BATCH_ID).cloned() {
        headers.insert(WRITE, batch);
    }
    // Expectations of the first publish hold for its own stream only.
    let mut kept = HeaderMap::new();
    for (name, values) in headers.iter() {
        let text = name.to_string();
        if let (false, Some(value)) =
            (text.starts_with("Nats-Expected") || text.starts_with("Nats-Batch"), values.first())
        {
            kept.insert(name.clone(), value.clone());
        }
    }
    bus.store(format!("vpn.dead.{bucket}.{feed}"), kept, message.payload.clone()).await
}
