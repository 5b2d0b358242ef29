//! A typed stream from a position on: each message once and in order, across reconnects and restarts of the server. For
//! who keeps what it made of the messages together with its position, and so counts each exactly once.

use std::marker::PhantomData;

use async_nats::{
    datetime,
    jetstream::{
        Message,
        consumer::{AckPolicy, DeliverPolicy, pull},
    },
};
use contract::{Code, Error, Streamed};
use tokio::{sync::watch, time::sleep};

use crate::{
    Bus,
    error::jetstream_failed,
    jetstream::{self, ABANDONED_AFTER, Messages, RETRY_AFTER, is_missing},
    origin::{self, Trace},
    stream,
};

/// Messages that are handed out together at most.
pub const AT_ONCE: usize = 256;

/// How far a stream was read: what to keep with what was made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// When the stream came to be that this is about, in nanoseconds since 1970 UTC; 0 before anything was read.
    pub created: i64,
    /// The last message that was read; 0 for none.
    pub sequence: u64,
}

/// A message of a stream.
#[derive(Debug)]
pub struct Delivered<M> {
    /// What it says; not a word of it where it cannot be read or stands under a subject that is not its own.
    pub message: Result<M, Error>,
    /// The position behind it.
    pub position: Position,
    /// The trace it is part of.
    pub trace: Trace,
    raw: Message,
}

impl<M: Streamed> Delivered<M> {
    /// Puts a message aside that its reader can make nothing of: it goes to the dead letters.
    pub async fn bury(&self, bus: &Bus, error: &Error) -> Result<(), Error> {
        stream::bury(bus, M::STREAM.name, bus.name(), &self.raw, error).await
    }
}

/// Reads a stream.
pub struct Reader<M> {
    bus: Bus,
    connects: watch::Receiver<u64>,
    position: Position,
    messages: Option<Messages>,
    /// Messages that the stream dropped before they were read.
    missed: u64,
    kind: PhantomData<fn() -> M>,
}

impl Bus {
    /// The last message of a stream; 0 where there was never one, or no stream yet.
    pub async fn last_of<M: Streamed>(&self) -> Result<u64, Error> {
        match self.jetstream.get_stream(M::STREAM.name).await {
            Ok(stream) => Ok(stream.cached_info().state.last_sequence),
            Err(error) if is_missing(&error) => Ok(0),
            Err(error) => Err(jetstream_failed(M::STREAM.name, &error)),
        }
    }

    /// Reads a stream behind a position.
    pub fn read<M: Streamed>(&self, position: Position) -> Reader<M> {
        let connects = self.inner.connects.clone();
        Reader { bus: self.clone(), connects, position, messages: None, missed: 0, kind: PhantomData }
    }
}

impl<M: Streamed> Reader<M> {
    /// The next messages, at least one; those that are there already come together. Who drops the wait misses nothing.
    pub async fn next(&mut self) -> Vec<Delivered<M>> {
        loop {
            match self.receive().await {
                Ok(delivered) if delivered.is_empty() => {}
                Ok(delivered) => return delivered,
                Err(error) => {
                    tracing::debug!(%error, stream = M::STREAM.name, "cannot read on yet");
                    self.messages = None;
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// How far it was read.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many messages the stream has dropped before they were read: it holds a limited time and amount.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    async fn receive(&mut self) -> Result<Vec<Delivered<M>>, Error> {
        if self.messages.is_none() {
            self.subscribe().await?;
        }
        let Some(messages) = &mut self.messages else { return Ok(Vec::new()) };
        let (taken, ended) = jetstream::ready_ones(messages, &mut self.connects, AT_ONCE).await;
        if ended {
            // Asked for again from what was read last.
            self.messages = None;
        }
        Ok(taken.into_iter().filter_map(|message| self.take_in(message)).collect())
    }

    fn take_in(&mut self, raw: Message) -> Option<Delivered<M>> {
        let sequence = raw.info().ok()?.stream_sequence;
        if sequence <= self.position.sequence {
            return None;
        }
        self.missed += sequence - self.position.sequence - 1;
        self.position.sequence = sequence;
        let invalid = |why: &str| Error::new(Code::REQUEST_INVALID, format!("{}: {why}", raw.subject));
        let message = postcard::from_bytes::<M>(&raw.payload)
            .map_err(|error| invalid(&error.to_string()))
            .and_then(|message| match message.subject() == raw.subject.as_str() {
                true => Ok(message),
                false => Err(invalid(&format!("it says of itself that it is {}", message.subject()))),
            });
        let trace = origin::trace_of(raw.headers.as_ref());
        Some(Delivered { message, position: self.position, trace, raw })
    }

    async fn subscribe(&mut self) -> Result<(), Error> {
        self.connects.mark_unchanged();
        let stream = self.bus.jetstream.get_stream(M::STREAM.name).await;
        let stream = stream.map_err(|error| jetstream_failed(M::STREAM.name, &error))?;
        let Position { created, sequence } = self.position;
        let known = if created == 0 { None } else { datetime::from_nanos(created.into()).ok() };
        let (info, anew) = jetstream::look(&stream, known, sequence).await?;
        let created = i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default();
        // What an empty position misses was never there for it.
        let first = info.state.first_sequence.saturating_sub(1);
        self.position = match (anew, sequence) {
            (true, _) | (_, 0) => Position { created, sequence: first },
            (false, sequence) => Position { created, sequence },
        };
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.position.sequence + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: ABANDONED_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = jetstream::consumer(&stream, config).await?;
        self.messages = Some(jetstream::messages(&consumer, AT_ONCE, 0).await?);
        Ok(())
    }
}
