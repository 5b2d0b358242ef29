//! State in a bucket. One message is the state, in its body, and the event of its change, in its headers.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap, HeaderValue, Request,
    header::{NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID},
    jetstream::stream::{DirectGetErrorKind, Stream},
};
use bytes::Bytes;
use contract::{Code, Error, EventName, State};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use crate::{
    Bus,
    connection::JETSTREAM_WITHIN,
    error::{Refusal, jetstream_failed},
    jetstream,
    origin::{self, EVENT, WRITE},
};

/// The header by which `nats kv` knows a deletion.
const OPERATION: &str = "KV-Operation";
const DELETION: &str = "DEL";
/// Which atomic batch a message is of (NATS ADR-50); it stays with the message.
pub(crate) const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// Only the last message of a batch has it.
pub(crate) const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// How long a write is tried: it outlasts a leader election of a clustered bus (5 s).
const WRITE_WITHIN: Duration = Duration::from_secs(7);
/// Between two tries of a write that was not answered.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How often a change is repeated on top of what came in between.
const CONFLICTS_MAX: usize = 16;

/// A bucket of one kind of state. Clones share it.
pub struct Bucket<S> {
    pub(crate) bus: Bus,
    pub(crate) stream: Stream,
    /// The last revision that was acknowledged to this handle or one of its clones, or that one of them got by key.
    pub(crate) known: Arc<AtomicU64>,
    kind: PhantomData<fn() -> S>,
}

impl<S> Clone for Bucket<S> {
    fn clone(&self) -> Self {
        let (bus, stream, known) = (self.bus.clone(), self.stream.clone(), self.known.clone());
        Self { bus, stream, known, kind: PhantomData }
    }
}

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<S> {
    /// The state; none after a deletion.
    pub value: Option<S>,
    /// The sequence of the message in its stream: grows with every change of the bucket.
    pub revision: u64,
}

/// One write of a batch.
pub struct Write<S: State> {
    /// The key.
    pub key: String,
    /// The state; none deletes.
    pub value: Option<S>,
    /// What happened.
    pub event: S::Event,
    /// The revision that stands under the key now; 0 for none.
    pub expected: u64,
}

/// What a write expects to find, so that it is refused where another one came first.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// This revision under the key; 0 for none.
    Key(u64),
    /// This revision as the last of the whole bucket.
    Bucket(u64),
}

/// A write that did not take place.
#[derive(Debug)]
pub enum WriteError {
    /// Another change came first.
    Conflict,
    /// Something else.
    Failed(Error),
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict => {
                Self::new(Code::BUS_CONFLICT, "the same thing was changed at the same moment")
            }
            WriteError::Failed(error) => error,
        }
    }
}

impl Bus {
    /// Opens a bucket, as its owner: makes it where it is missing and brings its settings in line.
    pub async fn own<S: State>(&self) -> Result<Bucket<S>, Error> {
        let stream = jetstream::ensure(self, jetstream::of_bucket(&S::BUCKET)).await?;
        Ok(Bucket { bus: self.clone(), stream, known: Arc::default(), kind: PhantomData })
    }
}

impl<S: State> Bucket<S> {
    /// What stands under a key; none where nothing ever did.
    pub async fn get(&self, key: &str) -> Result<Option<Entry<S>>, Error> {
        Ok(self.last(key).await?.map(|(entry, _)| entry))
    }

    /// The revision of the last change of the whole bucket.
    pub async fn revision(&self) -> Result<u64, Error> {
        match self.stream.get_info().await {
            Ok(info) => Ok(info.state.last_sequence),
            Err(error) => Err(jetstream_failed(&format!("read {}", S::BUCKET.name), &error)),
        }
    }

    /// A read that is not answered is repeated as long as a write would be: it is half of most changes.
    async fn last(&self, key: &str) -> Result<Option<(Entry<S>, HeaderMap)>, Error> {
        let deadline = Instant::now() + WRITE_WITHIN;
        loop {
            let found = self.stream.direct_get_last_for_subject(S::BUCKET.subject(key));
            let error = match self.bus.while_connected(found).await {
                Some(Ok(message)) => {
                    let entry = decode(&message.payload, Some(&message.headers), message.sequence).map_err(
                        |error| Error::new(Code::INTERNAL, format!("{} {key}: {error}", S::BUCKET.name)),
                    )?;
                    self.knows(entry.revision);
                    return Ok(Some((entry, message.headers)));
                }
                Some(Err(error)) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
                Some(Err(error)) => {
                    let error = jetstream_failed(&format!("read {} {key}", S::BUCKET.name), &error);
                    if Instant::now() > deadline {
                        return Err(error);
                    }
                    error
                }
                None => continue,
            };
            tracing::debug!(%error, "reading again");
            sleep(RETRY_AFTER).await;
        }
    }

    /// Stores what must not be there yet; a deleted one may be there again. On conflict there is one already.
    pub async fn insert(&self, value: &S, event: S::Event) -> Result<u64, WriteError> {
        let key = value.key();
        match self.write(&key, Some(value), event, 0).await {
            Err(WriteError::Conflict) => {}
            other => return other,
        }
        match self.get(&key).await.map_err(WriteError::Failed)? {
            Some(Entry { value: None, revision }) => self.write(&key, Some(value), event, revision).await,
            _ => Err(WriteError::Conflict),
        }
    }

    /// Changes what stands under a key, on top of whatever came in between. `change` gets the state and returns
    /// the new one with what happened, or none to leave it as it is.
    pub async fn modify<E: From<Error>>(
        &self,
        key: &str,
        missing: impl Fn() -> E,
        mut change: impl FnMut(&S) -> Result<Option<(S, S::Event)>, E>,
    ) -> Result<S, E> {
        for _ in 0..CONFLICTS_MAX {
            let Some(Entry { value: Some(value), revision }) = self.get(key).await? else {
                return Err(missing());
            };
            let Some((changed, event)) = change(&value)? else { return Ok(value) };
            match self.write(key, Some(&changed), event, revision).await {
                Ok(_) => return Ok(changed),
                Err(WriteError::Conflict) => {}
                Err(WriteError::Failed(error)) => return Err(error.into()),
            }
        }
        Err(Error::from(WriteError::Conflict).into())
    }

    /// Deletes what stands under a key and returns it; none where nothing did.
    pub async fn delete(&self, key: &str, event: S::Event) -> Result<Option<S>, Error> {
        for _ in 0..CONFLICTS_MAX {
            let Some(Entry { value: Some(value), revision }) = self.get(key).await? else { return Ok(None) };
            match self.write(key, None, event, revision).await {
                Ok(_) => return Ok(Some(value)),
                Err(WriteError::Conflict) => {}
                Err(WriteError::Failed(error)) => return Err(error),
            }
        }
        Err(WriteError::Conflict.into())
    }

    /// One guarded write; returns its revision.
    ///
    /// A write that is not answered is sent again under the same id, and a conflict with oneself is success: a
    /// timed-out publish may have been stored.
    pub async fn write(
        &self,
        key: &str,
        value: Option<&S>,
        event: S::Event,
        expected: u64,
    ) -> Result<u64, WriteError> {
        self.write_expecting(key, value, event, Expected::Key(expected)).await
    }

    /// The same for a change that was decided on the whole bucket, such as who gets a port: it is refused where
    /// anything in the bucket changed after `last`, the [`revision`](crate::View::revision) of the view that it
    /// was decided on.
    pub async fn write_after(
        &self,
        key: &str,
        value: Option<&S>,
        event: S::Event,
        last: u64,
    ) -> Result<u64, WriteError> {
        self.write_expecting(key, value, event, Expected::Bucket(last)).await
    }

    async fn write_expecting(
        &self,
        key: &str,
        value: Option<&S>,
        event: S::Event,
        expected: Expected,
    ) -> Result<u64, WriteError> {
        let id = format!("{key}:{}", Uuid::now_v7());
        let mut headers = origin::headers(self.bus.name());
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        headers.insert(WRITE, id.as_str());
        let body = complete(&mut headers, value, event, expected).map_err(WriteError::Failed)?;
        let subject = S::BUCKET.subject(key);
        let deadline = Instant::now() + WRITE_WITHIN;
        loop {
            let publish = async {
                let sent =
                    self.bus.jetstream.publish_with_headers(subject.clone(), headers.clone(), body.clone());
                sent.await?.await
            };
            let refusal = match timeout_at(deadline, self.bus.while_connected(publish)).await {
                Ok(Some(Ok(ack))) => {
                    self.knows(ack.sequence);
                    return Ok(ack.sequence);
                }
                Ok(Some(Err(error))) => Refusal::of_publish(&error),
                Ok(None) => Refusal::reconnected(),
                Err(_) => Refusal::silence(),
            };
            match refusal {
                Refusal::Final(error) => return Err(WriteError::Failed(error)),
                Refusal::Conflict => {
                    let last = self.last(key).await.map_err(WriteError::Failed)?;
                    return match last {
                        Some((entry, headers)) if written_by(&headers, &id) => Ok(entry.revision),
                        _ => Err(WriteError::Conflict),
                    };
                }
                Refusal::Unknown(why) if Instant::now() >= deadline => {
                    let what = format!("{} {key} was not acknowledged: {why}", S::BUCKET.name);
                    return Err(WriteError::Failed(Error::new(Code::BUS_STORE_FAILED, what)));
                }
                Refusal::Unknown(_) => sleep(RETRY_AFTER).await,
            }
        }
    }

    /// Up to 1,000 guarded writes, all of them or none; returns the revision of the last.
    pub async fn write_all(&self, writes: &[Write<S>]) -> Result<u64, WriteError> {
        let [.., last] = writes else { return Ok(0) };
        let deadline = Instant::now() + WRITE_WITHIN;
        // The names of all tries begin alike, so that a commit whose answer was lost is recognised.
        let id = Uuid::now_v7().to_string();
        let mut tries = 0;
        loop {
            tries += 1;
            let tried = self.bus.while_connected(self.try_batch(writes, format!("{id}-{tries}")));
            let refusal = match timeout_at(deadline, tried).await {
                Ok(Some(Ok(revision))) => {
                    self.knows(revision);
                    return Ok(revision);
                }
                Ok(Some(Err(refusal))) => refusal,
                Ok(None) => Refusal::reconnected(),
                Err(_) => Refusal::silence(),
            };
            match refusal {
                Refusal::Final(error) => return Err(WriteError::Failed(error)),
                Refusal::Conflict => {
                    let found = self.last(&last.key).await.map_err(WriteError::Failed)?;
                    return match found {
                        Some((entry, headers)) if written_by(&headers, &id) => Ok(entry.revision),
                        _ => Err(WriteError::Conflict),
                    };
                }
                Refusal::Unknown(why) if Instant::now() >= deadline => {
                    let what = format!("a batch on {} was not acknowledged: {why}", S::BUCKET.name);
                    return Err(WriteError::Failed(Error::new(Code::BUS_STORE_FAILED, what)));
                }
                Refusal::Unknown(_) => sleep(RETRY_AFTER).await,
            }
        }
    }

    async fn try_batch(&self, writes: &[Write<S>], name: String) -> Result<u64, Refusal> {
        let unknown = |error: &dyn std::fmt::Display| Refusal::Unknown(error.to_string());
        let mut common = origin::headers(self.bus.name());
        common.insert(BATCH_ID, name);
        for (index, write) in writes.iter().enumerate() {
            let mut headers = common.clone();
            headers.insert(BATCH_SEQUENCE, HeaderValue::from(index + 1));
            let expected = Expected::Key(write.expected);
            let body = complete(&mut headers, write.value.as_ref(), write.event, expected)
                .map_err(Refusal::Final)?;
            let subject = S::BUCKET.subject(&write.key);
            let (first, last) = (index == 0, index + 1 == writes.len());
            if last {
                headers.insert(BATCH_COMMIT, "1");
            }
            if !(first || last) {
                self.bus
                    .client
                    .publish_with_headers(subject, headers, body)
                    .await
                    .map_err(|e| unknown(&e))?;
                continue;
            }
            // The first message learns whether batches are taken at all, the last one what came of this.
            let request = Request::new().headers(headers).payload(body).timeout(Some(JETSTREAM_WITHIN));
            let reply = self.bus.client.send_request(subject, request).await.map_err(|e| unknown(&e))?;
            if let Ok(Answer { error: Some(error), .. }) = serde_json::from_slice(&reply.payload) {
                return Err(Refusal::of_jetstream(error.err_code, &error.description));
            }
            if last {
                let answer: Answer = serde_json::from_slice(&reply.payload).map_err(|e| unknown(&e))?;
                return Ok(answer.seq);
            }
        }
        Ok(0)
    }

    fn knows(&self, revision: u64) {
        self.known.fetch_max(revision, Ordering::Relaxed);
    }
}

/// Adds what a single message says besides its origin; returns its body.
fn complete<S: State>(
    headers: &mut HeaderMap,
    value: Option<&S>,
    event: S::Event,
    expected: Expected,
) -> Result<Bytes, Error> {
    headers.insert(EVENT, event.name());
    let (guard, revision) = match expected {
        Expected::Key(revision) => (NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision),
        Expected::Bucket(revision) => (NATS_EXPECTED_LAST_SEQUENCE, revision),
    };
    headers.insert(guard, HeaderValue::from(revision));
    let Some(value) = value else {
        headers.insert(OPERATION, DELETION);
        return Ok(Bytes::new());
    };
    let body = serde_json::to_vec(value).map_err(|error| Error::new(Code::INTERNAL, error.to_string()))?;
    Ok(body.into())
}

/// What nats-server answers to a message of a batch.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn written_by(headers: &HeaderMap, id: &str) -> bool {
    let value = |name| headers.get(name).map(|value| value.as_str());
    let of_batch = |batch: &str| batch.strip_prefix(id).is_some_and(|tries| tries.starts_with('-'));
    value(WRITE) == Some(id) || value(BATCH_ID).is_some_and(of_batch)
}

/// Reads a message of a bucket; markers of deletion have an operation and no body.
pub(crate) fn decode<S: State>(
    body: &[u8],
    headers: Option<&HeaderMap>,
    revision: u64,
) -> Result<Entry<S>, serde_json::Error> {
    let deleted = headers.is_some_and(|headers| headers.get(OPERATION).is_some());
    let value = if deleted { None } else { Some(serde_json::from_slice(body)?) };
    Ok(Entry { value, revision })
}
