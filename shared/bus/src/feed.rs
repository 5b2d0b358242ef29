//! State as it changed: every revision, at least once and in order per bucket, across restarts. For who does
//! something about each change.
//!
//! A feed has one reader at a time: a service that follows one runs once. Where the bucket begins again, as a restored
//! backup does, all that is there comes anew.

use std::{sync::Arc, time::Duration};

use async_nats::{
    datetime::DateTime,
    jetstream::{
        AckKind, Message,
        consumer::{AckPolicy, DeliverPolicy, pull},
    },
};
use contract::{Code, Error, State};
use futures::{FutureExt, StreamExt};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{Instrument, info_span};

use crate::{
    Bucket, Change, Origin, Shutdown,
    bucket::{BATCH_COMMIT, BATCH_ID},
    error::is_transient,
    jetstream,
    origin::caused_by,
    stream,
    watch::causes,
};

/// Changes that are handed over together at most: one atomic batch.
pub const AT_ONCE: usize = 1_000;
/// How long those that are on their way are waited for: a round trip to a bus that is not near. Handled together
/// they cost one write instead of many.
const GATHER_WITHIN: Duration = Duration::from_millis(20);
/// The first and the longest pause after a failure.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// A change that fails so often by its own fault goes to the dead letters.
const TRIES: usize = 5;
/// After this time the server offers a change again; longer than any handler may take.
const ACK_WITHIN: Duration = Duration::from_secs(60);

/// A durable reader of one bucket.
pub struct Feed<S> {
    bucket: Bucket<S>,
    name: &'static str,
    connects: watch::Receiver<u64>,
    /// Up to here everything has been handled by this process.
    done: u64,
    /// When the stream came to be that this is about.
    created: Option<DateTime>,
}

impl<S: State> Bucket<S> {
    /// The feed of the service `name`: it goes on where that service left off.
    pub fn feed(&self, name: &'static str) -> Feed<S> {
        Feed { bucket: self.clone(), name, connects: self.bus.inner.connects.clone(), done: 0, created: None }
    }
}

impl<S: State> Feed<S> {
    /// Hands every change to `handle` until shutdown begins. What fails is tried again; what keeps failing alone
    /// and by its own fault is kept in the stream of dead letters, and the feed goes on.
    pub async fn run<F, W>(mut self, shutdown: Shutdown, handle: F)
    where
        F: Fn(Vec<Change<S>>) -> W + Send + Sync,
        W: Future<Output = Result<(), Error>> + Send,
    {
        let mut pause = RETRY_AFTER[0];
        while !shutdown.has_begun() {
            let before = self.done;
            let ended = tokio::select! {
                ended = self.read(&shutdown, &handle) => ended,
                () = shutdown.begun() => return,
            };
            if ended.is_ok() || self.done != before {
                pause = RETRY_AFTER[0];
            }
            if let Err(error) = ended {
                tracing::debug!(%error, feed = self.name, bucket = S::BUCKET.name, "cannot follow yet");
                tokio::select! {
                    () = sleep(pause) => pause = (pause * 2).min(RETRY_AFTER[1]),
                    // A new connection is worth a try at once.
                    _ = self.connects.changed() => {}
                    () = shutdown.begun() => return,
                }
            }
        }
    }

    /// Reads until the connection breaks.
    async fn read<F, W>(&mut self, shutdown: &Shutdown, handle: &F) -> Result<(), Error>
    where
        F: Fn(Vec<Change<S>>) -> W + Send + Sync,
        W: Future<Output = Result<(), Error>> + Send,
    {
        self.connects.mark_unchanged();
        let config = pull::Config {
            durable_name: Some(self.name.to_owned()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::All,
            ack_wait: ACK_WITHIN,
            max_ack_pending: 10 * AT_ONCE as i64,
            filter_subject: S::BUCKET.subject(">"),
            ..pull::Config::default()
        };
        let (info, anew) = jetstream::look(&self.bucket.stream, self.created, self.done).await?;
        self.created = Some(info.created);
        if anew {
            self.done = 0;
        }
        let consumer = jetstream::consumer(&self.bucket.stream, config).await?;
        // What an earlier reader had taken and not finished comes again, first and in order.
        let reset =
            self.bucket.stream.reset_consumer(self.name, None).await.map_err(|error| {
                Error::new(Code::BUS_STORE_FAILED, format!("feed {}: {error}", self.name))
            })?;
        let delivered = reset.info.delivered.consumer_sequence;
        let mut messages = jetstream::messages(&consumer, AT_ONCE, delivered).await?;
        loop {
            let first = tokio::select! {
                message = messages.next() => message,
                _ = self.connects.changed() => return Ok(()),
            };
            let ended = || Error::new(Code::BUS_STORE_FAILED, format!("feed {} ended", self.name));
            let first = first.ok_or_else(ended)??;
            let (mut taken, mut broken) = (vec![Arc::new(first)], false);
            while taken.len() < AT_ONCE {
                // Those that are there already come in several reads. One that is not stored yet is not waited for:
                // a timeout of nothing would last a millisecond, too, and nobody is to wait for a stream of others.
                let next = if taken.last().is_some_and(|last| more_come(last)) {
                    timeout(GATHER_WITHIN, messages.next()).await.ok()
                } else {
                    messages.next().now_or_never()
                };
                match next {
                    Some(Some(Ok(message))) => taken.push(Arc::new(message)),
                    Some(Some(Err(_)) | None) => {
                        broken = true;
                        break;
                    }
                    None => break,
                }
            }
            self.handle_all(taken, shutdown, handle).await?;
            if broken {
                return Ok(());
            }
        }
    }

    async fn handle_all<F, W>(
        &mut self,
        taken: Vec<Arc<Message>>,
        shutdown: &Shutdown,
        handle: &F,
    ) -> Result<(), Error>
    where
        F: Fn(Vec<Change<S>>) -> W + Send + Sync,
        W: Future<Output = Result<(), Error>> + Send,
    {
        let (mut changes, mut readable) = (Vec::new(), Vec::new());
        for message in &taken {
            match Change::<S>::of(message) {
                Ok(change) if change.entry.revision <= self.done => {}
                Ok(change) => {
                    changes.push(change);
                    readable.push(message);
                }
                Err(error) => self.bury(message, &Error::new(Code::INTERNAL, error)).await?,
            }
        }
        if let Some(revision) = changes.last().map(|change| change.entry.revision) {
            if let Err(error) = self.handle(changes, handle).await {
                let changes = readable.len();
                tracing::warn!(%error, feed = self.name, changes, "changes failed; one by one now");
                for message in readable {
                    self.insist(message, shutdown, handle).await?;
                }
            }
            self.done = revision;
        }
        if let Some(last) = taken.last() {
            let acked = last.ack_with(AckKind::Ack).await;
            acked.map_err(|error| {
                Error::new(Code::BUS_STORE_FAILED, format!("feed {}: {error}", self.name))
            })?;
        }
        Ok(())
    }

    /// Tries one change until it is handled or proves to be at fault itself.
    async fn insist<F, W>(&self, message: &Arc<Message>, shutdown: &Shutdown, handle: &F) -> Result<(), Error>
    where
        F: Fn(Vec<Change<S>>) -> W + Send + Sync,
        W: Future<Output = Result<(), Error>> + Send,
    {
        let (mut pause, mut faults) = (RETRY_AFTER[0], 0);
        loop {
            let change = Change::of(message).map_err(|error| Error::new(Code::INTERNAL, error))?;
            let error = match self.handle(vec![change], handle).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            faults += usize::from(!is_transient(&error));
            if faults >= TRIES {
                return self.bury(message, &error).await;
            }
            if shutdown.has_begun() {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_AFTER[1]);
        }
    }

    async fn handle<F, W>(&self, changes: Vec<Change<S>>, handle: &F) -> Result<(), Error>
    where
        F: Fn(Vec<Change<S>>) -> W + Send + Sync,
        W: Future<Output = Result<(), Error>> + Send,
    {
        let service = self.bucket.bus.name().to_owned();
        let span = info_span!(
            "follow",
            otel.name = format!("follow {}", S::BUCKET.name),
            otel.kind = "consumer",
            vpn.service = service,
            messaging.system = "nats",
            messaging.destination.name = S::BUCKET.name,
            messaging.batch.message_count = changes.len(),
        );
        caused_by(&span, &causes(&changes));
        let origin = match changes.as_slice() {
            [one] => one.origin(),
            _ => Origin::service(&service),
        };
        origin.scope(handle(changes)).instrument(span).await
    }

    async fn bury(&self, message: &Message, error: &Error) -> Result<(), Error> {
        tracing::error!(%error, feed = self.name, subject = %message.subject, "a change goes to the dead letters");
        stream::bury(&self.bucket.bus, S::BUCKET.name, self.name, message, error).await
    }
}

/// Whether more is on its way after this message: it is there already, or belongs to the same batch, which nats-server
/// hands out while it is storing it.
fn more_come(message: &Message) -> bool {
    let has = |name| message.headers.as_ref().is_some_and(|headers| headers.get(name).is_some());
    let pending = message.info().is_ok_and(|info| info.pending > 0);
    pending || (has(BATCH_ID) && !has(BATCH_COMMIT))
}
