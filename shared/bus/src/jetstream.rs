//! Streams as they should be: made where absent, compared and brought in line where present.

use std::{fmt::Display, time::Duration};

use async_nats::{
    datetime::DateTime,
    jetstream::{
        Message,
        consumer::{
            self, Consumer,
            pull::{self, MessagesError},
        },
        context::{CreateStreamErrorKind, GetStreamError, GetStreamErrorKind},
        stream::{Config, DiscardPolicy, Info, StorageType, Stream},
    },
};
use contract::{Code, Error};
use futures::{FutureExt, StreamExt, future::ready, stream::BoxStream};
use tokio::sync::watch;

use crate::{Bus, error::jetstream_failed};

/// How long nats-server remembers message ids: longer than any caller retries.
const DUPLICATES_WITHIN: Duration = Duration::from_secs(120);

/// A consumer that nobody reads is removed by the server after this time.
pub(crate) const ABANDONED_AFTER: Duration = Duration::from_secs(60);
/// Between two attempts to read again what the bus keeps from being read.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A consumer that is read by pulling.
pub(crate) type PullConsumer = Consumer<pull::Config>;

/// The stream of a bucket: what `nats kv` expects of one, and atomic batches.
pub(crate) fn of_bucket(bucket: &contract::Bucket) -> Config {
    Config {
        name: bucket.stream(),
        description: Some(format!("state that {} owns", bucket.owner)),
        subjects: vec![format!("$KV.{}.>", bucket.name)],
        max_messages_per_subject: bucket.history,
        max_bytes: -1,
        max_messages: -1,
        max_message_size: -1,
        max_consumers: -1,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: 1,
        duplicate_window: DUPLICATES_WITHIN,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_atomic_publish: true,
        ..Config::default()
    }
}

/// The stream of typed messages.
pub(crate) fn of_stream(stream: &contract::Stream) -> Config {
    Config {
        name: stream.name.to_owned(),
        subjects: vec![stream.subjects.to_owned()],
        max_age: Duration::from_secs(stream.max_age_seconds),
        max_bytes: stream.max_bytes,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        num_replicas: 1,
        duplicate_window: DUPLICATES_WITHIN,
        allow_direct: true,
        ..Config::default()
    }
}

/// Whether there is no such stream.
pub(crate) fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(missing) if missing.code() == 404)
}

/// Makes the stream, or brings the one that is there in line; more replicas than asked for are the operator's
/// choice and stay.
pub(crate) async fn ensure(bus: &Bus, mut wanted: Config) -> Result<Stream, Error> {
    let name = wanted.name.clone();
    let failed = |what: &str, error: &(dyn std::error::Error + 'static)| {
        jetstream_failed(&format!("{what} {name}"), error)
    };
    let found = match bus.jetstream.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) if is_missing(&error) => {
            bus.jetstream.create_stream(wanted).await.map_err(|error| match error.kind() {
                // It is not among the error's sources, and says whether the disk is full.
                CreateStreamErrorKind::JetStream(refusal) => failed("create stream", &refusal),
                _ => failed("create stream", &error),
            })?;
            return bus.jetstream.get_stream(&name).await.map_err(|error| failed("read stream", &error));
        }
        Err(error) => return Err(failed("read stream", &error)),
    };
    let present = &found.cached_info().config;
    wanted.num_replicas = wanted.num_replicas.max(present.num_replicas);
    if same(present, &wanted) {
        return Ok(found);
    }
    if present.storage != wanted.storage || present.retention != wanted.retention {
        return Err(Error::new(
            Code::BUS_DRIFT,
            format!(
                "stream {name} has storage {:?} and retention {:?}, which cannot be changed",
                present.storage, present.retention
            ),
        ));
    }
    tracing::warn!(stream = name, "a stream was configured otherwise and is brought in line");
    bus.jetstream.update_stream(&wanted).await.map_err(|error| match error.kind() {
        CreateStreamErrorKind::JetStream(_) => {
            Error::new(Code::BUS_DRIFT, format!("stream {name} cannot be brought in line: {error}"))
        }
        // It was not refused: there was no answer.
        _ => failed("update stream", &error),
    })?;
    bus.jetstream.get_stream(&name).await.map_err(|error| failed("read stream", &error))
}

/// Compares what this system relies on; the server fills in the rest.
fn same(present: &Config, wanted: &Config) -> bool {
    present.subjects == wanted.subjects
        && present.max_messages_per_subject == wanted.max_messages_per_subject
        && present.max_bytes == wanted.max_bytes
        && present.max_age == wanted.max_age
        && present.storage == wanted.storage
        && present.retention == wanted.retention
        && present.discard == wanted.discard
        && present.deny_delete == wanted.deny_delete
        && present.allow_direct == wanted.allow_direct
        && present.allow_atomic_publish == wanted.allow_atomic_publish
        && present.duplicate_window == wanted.duplicate_window
        && present.num_replicas == wanted.num_replicas
}

/// Reads what a stream is now, for who has read it up to `seen` since it was `created`. Says so where it began again:
/// a backup was restored, or it was deleted and made anew. A backup that has grown past `seen` by now cannot be told
/// from the stream that it was taken of.
pub(crate) async fn look(
    stream: &Stream,
    created: Option<DateTime>,
    seen: u64,
) -> Result<(Info, bool), Error> {
    let name = &stream.cached_info().config.name;
    let info =
        stream.get_info().await.map_err(|error| jetstream_failed(&format!("read stream {name}"), &error))?;
    let last = info.state.last_sequence;
    let anew = last < seen || created.is_some_and(|created| created != info.created);
    if anew {
        tracing::error!(
            stream = name,
            seen,
            last,
            "a stream began again, as a restored backup does: read anew"
        );
    }
    Ok((info, anew))
}

/// Makes a consumer on a stream.
pub(crate) async fn consumer(stream: &Stream, config: pull::Config) -> Result<PullConsumer, Error> {
    let name = stream.cached_info().config.name.clone();
    stream.create_consumer(config).await.map_err(|error: async_nats::jetstream::stream::ConsumerError| {
        jetstream_failed(&format!("consumer on {name}"), &error)
    })
}

/// What a consumer hands out. One that is missing, because it was on its way when a connection broke, is an error in
/// its place: the server takes it for delivered, and goes on with the next one on the next connection.
pub(crate) type Messages = BoxStream<'static, Result<Message, Error>>;

/// The next message and those behind it that are there already, `most` in all; and whether nothing more comes this way,
/// because the connection was made anew or the consumer is gone. Who drops the wait misses nothing.
pub(crate) async fn ready_ones(
    messages: &mut Messages,
    connects: &mut watch::Receiver<u64>,
    most: usize,
) -> (Vec<Message>, bool) {
    let mut taken = Vec::new();
    let mut next = tokio::select! {
        message = messages.next() => message,
        // What was under way when the connection broke is lost.
        _ = connects.changed() => None,
    };
    loop {
        match next {
            Some(Ok(message)) => taken.push(message),
            Some(Err(_)) | None => return (taken, true),
        }
        if taken.len() >= most {
            return (taken, false);
        }
        match messages.next().now_or_never() {
            Some(message) => next = message,
            None => return (taken, false),
        }
    }
}

/// Messages of a consumer that has handed out `delivered` so far, and how they are asked for: as many as are worked on
/// at once.
pub(crate) async fn messages(
    consumer: &PullConsumer,
    batch: usize,
    delivered: u64,
) -> Result<Messages, Error> {
    let what = format!("read consumer {}", consumer.cached_info().name);
    let messages = consumer
        .stream()
        .max_messages_per_batch(batch)
        .heartbeat(Duration::from_millis(1_500))
        .expires(Duration::from_secs(10))
        .messages()
        .await
        .map_err(|error: consumer::StreamError| jetstream_failed(&what, &error))?;
    let broke = move |why: &dyn Display| Error::new(Code::BUS_STORE_FAILED, format!("{what}: {why}"));
    let in_turn = move |delivered: &mut u64, message: Result<Message, MessagesError>| {
        let message = message.map_err(|error| broke(&error))?;
        let sequence = message.info().map_err(|error| broke(&error))?.consumer_sequence;
        *delivered += 1;
        if sequence != *delivered {
            return Err(broke(&format!("{sequence} came where {delivered} was due")));
        }
        Ok(message)
    };
    Ok(messages.scan(delivered, move |delivered, message| ready(Some(in_turn(delivered, message)))).boxed())
}
