//! State as it is and changes: the last revision of every key, then everything that follows. For who compares
//! desired with actual and needs no history. Where the bucket begins again, as a restored backup does, all that is
//! there comes anew, and then the deletion of what is not there any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    datetime::DateTime,
    jetstream::{
        Message,
        consumer::{AckPolicy, DeliverPolicy, pull},
        stream::Stream,
    },
};
use contract::{Code, Error, State};
use futures::{FutureExt, future::BoxFuture};
use telemetry::context::TRACEPARENT;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    Bucket, Bus, Entry, Origin, Shutdown,
    bucket::decode,
    error::jetstream_failed,
    jetstream::{self, ABANDONED_AFTER, Messages, RETRY_AFTER},
    origin::{self, Trace},
};

/// Messages that are handed out together at most: one atomic batch.
pub const AT_ONCE: usize = 1_000;
/// A view that is not there yet asks whether it will be: much longer than a change is on its way.
const ASK_AFTER: Duration = Duration::from_millis(250);

/// The event of a change that nobody made: the bucket began again without this key.
const VANISHED: &str = "bus.vanished";

/// A change of one key.
#[derive(Debug, Clone)]
pub struct Change<S> {
    /// The key.
    pub key: String,
    /// What stands there now.
    pub entry: Entry<S>,
    /// What said so; none where nobody did, because the bucket began again without this key.
    message: Option<Arc<Message>>,
}

impl<S: State> Change<S> {
    pub(crate) fn of(message: &Arc<Message>) -> Result<Self, String> {
        let revision = message.info().map_err(|error| error.to_string())?.stream_sequence;
        let key = S::BUCKET.key(&message.subject).ok_or_else(|| format!("{} is no key", message.subject))?;
        let entry = decode(&message.payload, message.headers.as_ref(), revision);
        let entry = entry.map_err(|error| error.to_string())?;
        Ok(Self { key: key.to_owned(), entry, message: Some(message.clone()) })
    }

    fn vanished(key: &str, revision: u64) -> Self {
        Self { key: key.to_owned(), entry: Entry { value: None, revision }, message: None }
    }

    fn headers(&self) -> Option<&HeaderMap> {
        self.message.as_ref()?.headers.as_ref()
    }

    fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers()?.get(name)?.as_str())
    }

    /// What happened, such as `users.created`.
    pub fn event(&self) -> &str {
        match self.message {
            Some(_) => self.header(origin::EVENT).unwrap_or_default(),
            None => VANISHED,
        }
    }

    /// Who caused it.
    pub fn origin(&self) -> Origin {
        Origin::of(self.headers())
    }

    /// The trace it is part of.
    pub fn trace(&self) -> Trace {
        origin::trace_of(self.headers())
    }
}

/// The traces that changes are part of. Neighbours that have it from the same span, as those of a batch do, count once.
pub fn causes<S: State>(changes: &[Change<S>]) -> Vec<Trace> {
    let same = |one: &Change<S>, other: &Change<S>| one.header(TRACEPARENT) == other.header(TRACEPARENT);
    changes.chunk_by(same).filter_map(|neighbours| Some(neighbours.first()?.trace())).collect()
}

/// Reads a bucket from its last revisions on, across reconnects and restarts of the server.
pub struct Watch<S> {
    bucket: Bucket<S>,
    filter: String,
    connects: watch::Receiver<u64>,
    messages: Option<Messages>,
    /// On the way to them. Kept, because who waits for several watches at once drops each wait that is not the first
    /// to end: begun anew each time, it would never get there while the others have news.
    subscribing: Option<BoxFuture<'static, Result<Subscribed, Error>>>,
    seen: u64,
    /// The bucket's last revision when the watch began: from there on it is up to date.
    target: u64,
    /// When the bucket came to be that this is about.
    created: Option<DateTime>,
    /// The keys that stand by what was handed out: 40 bytes each.
    keys: BTreeSet<Box<str>>,
    /// Those of them that have not come again since the bucket began again.
    missed: BTreeSet<Box<str>>,
}

impl<S: State> Bucket<S> {
    /// Watches the whole bucket.
    pub async fn watch(&self) -> Result<Watch<S>, Error> {
        self.watch_keys(">").await
    }

    /// Watches the keys that match, in the language of subjects.
    pub async fn watch_keys(&self, keys: &str) -> Result<Watch<S>, Error> {
        let filter = S::BUCKET.subject(keys);
        let mut watch = Watch {
            bucket: self.clone(),
            filter,
            connects: self.bus.inner.connects.clone(),
            messages: None,
            subscribing: None,
            seen: 0,
            target: 0,
            created: None,
            keys: BTreeSet::new(),
            missed: BTreeSet::new(),
        };
        watch.subscribe().await?;
        Ok(watch)
    }
}

impl<S: State> Watch<S> {
    /// The next changes, at least one; those that are there already come together. Undecodable ones are logged
    /// and skipped, so there may be none where the last that was there when the watch began is such a one.
    pub async fn next(&mut self) -> Vec<Change<S>> {
        loop {
            let behind = !self.is_current();
            let changes = self.read().await;
            if !changes.is_empty() || (behind && self.is_current()) {
                return changes;
            }
        }
    }

    /// Whether everything has been handed out that was there when the watch began.
    pub fn is_current(&self) -> bool {
        self.seen >= self.target
    }

    /// The revision up to which changes have been handed out.
    pub fn revision(&self) -> u64 {
        self.seen
    }

    /// Takes up where it was when it was dropped before its end.
    async fn subscribe(&mut self) -> Result<(), Error> {
        let Self { bucket, filter, connects, subscribing, seen, target, created, .. } = self;
        let subscribed = subscribing.get_or_insert_with(|| {
            connects.mark_unchanged();
            let scope = Scope {
                bus: bucket.bus.clone(),
                stream: bucket.stream.clone(),
                whole: *filter == S::BUCKET.subject(">"),
                filter: filter.clone(),
            };
            subscribe(scope, *seen, *target, *created).boxed()
        });
        let subscribed = subscribed.await;
        self.subscribing = None;
        let Subscribed { messages, seen, target, created, anew } = subscribed?;
        (self.messages, self.seen, self.target, self.created) = (Some(messages), seen, target, Some(created));
        if anew {
            self.missed.append(&mut self.keys);
        }
        Ok(())
    }

    /// What has come, and what has not come again.
    async fn read(&mut self) -> Vec<Change<S>> {
        let mut changes =
            if self.missed.is_empty() || !self.is_current() { self.receive().await } else { Vec::new() };
        for change in &changes {
            self.missed.remove(change.key.as_str());
            match change.entry.value {
                Some(_) => drop(self.keys.insert(change.key.as_str().into())),
                None => drop(self.keys.remove(change.key.as_str())),
            }
        }
        if self.is_current() {
            let missed = std::mem::take(&mut self.missed);
            changes.extend(missed.iter().map(|key| Change::vanished(key, self.seen)));
        }
        changes
    }

    async fn receive(&mut self) -> Vec<Change<S>> {
        let Some(messages) = &mut self.messages else {
            if let Err(error) = self.subscribe().await {
                tracing::debug!(%error, bucket = S::BUCKET.name, "cannot watch yet");
                sleep(RETRY_AFTER).await;
            }
            return Vec::new();
        };
        let (taken, ended) = jetstream::ready_ones(messages, &mut self.connects, AT_ONCE).await;
        if ended {
            // Asked for again from what was seen last.
            self.messages = None;
        }
        let messages = taken.into_iter().map(Arc::new);
        messages.filter_map(|message| take_in(&mut self.seen, &message)).collect()
    }
}

/// The change that a message is, unless it was seen already or cannot be read.
fn take_in<S: State>(seen: &mut u64, message: &Arc<Message>) -> Option<Change<S>> {
    match Change::of(message) {
        Ok(change) => {
            let is_new = change.entry.revision > *seen;
            *seen = change.entry.revision.max(*seen);
            is_new.then_some(change)
        }
        Err(error) => {
            tracing::error!(error, subject = %message.subject, "state that cannot be read");
            // It counts as seen: who waits for this revision would wait for ever.
            *seen = message.info().map_or(0, |info| info.stream_sequence).max(*seen);
            None
        }
    }
}

/// Where a watch begins to read.
struct Subscribed {
    messages: Messages,
    seen: u64,
    target: u64,
    created: DateTime,
    anew: bool,
}

/// What a watch is about.
struct Scope {
    bus: Bus,
    stream: Stream,
    filter: String,
    /// Whether that is the whole bucket.
    whole: bool,
}

async fn subscribe(
    scope: Scope,
    seen: u64,
    target: u64,
    created: Option<DateTime>,
) -> Result<Subscribed, Error> {
    let begun = begin(&scope, seen, target, created);
    let broke = || Err(Error::new(Code::BUS_UNREACHABLE, "the connection broke"));
    scope.bus.while_connected(begun).await.unwrap_or_else(broke)
}

/// Asks for what comes after `seen`; where nothing was seen yet or the bucket began again, for what there is, and finds
/// out up to where that is.
async fn begin(
    Scope { stream, filter, whole, .. }: &Scope,
    mut seen: u64,
    mut target: u64,
    created: Option<DateTime>,
) -> Result<Subscribed, Error> {
    let (info, anew) = jetstream::look(stream, created, seen).await?;
    if anew {
        (seen, target) = (0, 0);
    }
    let deliver_policy = match seen {
        0 => DeliverPolicy::LastPerSubject,
        seen => DeliverPolicy::ByStartSequence { start_sequence: seen + 1 },
    };
    let config = pull::Config {
        deliver_policy,
        ack_policy: AckPolicy::None,
        filter_subject: filter.clone(),
        inactive_threshold: ABANDONED_AFTER,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let consumer = jetstream::consumer(stream, config).await?;
    if target == 0 {
        // With nothing pending there is nothing to wait for; else the last one pending is the last there is.
        // Where that cannot be said the watch has not begun: it would count as current with nothing read.
        let failed =
            |error: &(dyn std::error::Error + 'static)| jetstream_failed(&format!("read {filter}"), error);
        match consumer.cached_info().num_pending {
            // A bucket that was purged is empty, and yet its revisions go on from where they were.
            0 if *whole => seen = seen.max(info.state.last_sequence),
            0 => {}
            _ if *whole => target = info.state.last_sequence,
            _ => {
                let last = stream.direct_get_last_for_subject(filter.clone()).await;
                target = last.map_err(|error| failed(&error))?.sequence;
            }
        }
    }
    let messages = jetstream::messages(&consumer, AT_ONCE, 0).await?;
    Ok(Subscribed { messages, seen, target, created: info.created, anew })
}

/// A bucket's content in memory, kept up to date in the background. Clones share it.
pub struct View<S> {
    bucket: Bucket<S>,
    entries: Arc<RwLock<BTreeMap<String, S>>>,
    seen: watch::Receiver<u64>,
}

impl<S> Clone for View<S> {
    fn clone(&self) -> Self {
        Self { bucket: self.bucket.clone(), entries: self.entries.clone(), seen: self.seen.clone() }
    }
}

impl<S: State> View<S> {
    /// Reads the bucket; returns when everything that was there is in the view.
    pub async fn open(bucket: &Bucket<S>, shutdown: &Shutdown) -> Result<Self, Error> {
        Self::open_telling(bucket, shutdown, |_| {}).await
    }

    /// The same, and tells all changes from the first on: a second watch of the same bucket would cost as much as this
    /// one.
    pub async fn open_telling(
        bucket: &Bucket<S>,
        shutdown: &Shutdown,
        mut tell: impl FnMut(&[Change<S>]) + Send + 'static,
    ) -> Result<Self, Error> {
        let mut watch = bucket.watch().await?;
        let entries = Arc::new(RwLock::new(BTreeMap::new()));
        while !watch.is_current() {
            let changes = watch.read().await;
            tell(&changes);
            fold(&entries, changes);
        }
        let (seen, receiver) = watch::channel(watch.revision());
        let folded = entries.clone();
        shutdown.spawn_until("view", async move {
            loop {
                let changes = watch.read().await;
                tell(&changes);
                fold(&folded, changes);
                seen.send_replace(watch.revision());
            }
        });
        Ok(Self { bucket: bucket.clone(), entries, seen: receiver })
    }

    /// What is there, by key.
    pub fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, S>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of them.
    pub fn get(&self, key: &str) -> Option<S> {
        self.read().get(key).cloned()
    }

    /// The revision of the bucket that the view holds at least. Read before the content it stands for, as the
    /// guard of [`Bucket::write_after`].
    pub fn revision(&self) -> u64 {
        *self.seen.borrow()
    }

    /// Waits until the view holds all that was written or read through its bucket: who was told of a change finds it
    /// here, too.
    pub async fn current(&self) {
        let known = self.bucket.known.load(Ordering::Relaxed);
        self.caught_up(known).await;
        if self.revision() < known {
            // The bucket began again: its revisions count anew.
            let last = self.bucket.revision().await.unwrap_or_default();
            let _ = self.bucket.known.compare_exchange(known, last, Ordering::Relaxed, Ordering::Relaxed);
            self.caught_up(last).await;
        }
    }

    /// Waits until the view holds this revision; or until it is clear that it never will, because the bucket began
    /// again and has not come so far.
    pub async fn caught_up(&self, revision: u64) {
        let mut seen = self.seen.clone();
        while timeout(ASK_AFTER, seen.wait_for(|seen| *seen >= revision)).await.is_err() {
            if self.bucket.revision().await.is_ok_and(|last| last < revision) {
                return;
            }
        }
    }
}

fn fold<S>(entries: &RwLock<BTreeMap<String, S>>, changes: Vec<Change<S>>) {
    let mut entries = entries.write().unwrap_or_else(PoisonError::into_inner);
    for change in changes {
        match change.entry.value {
            Some(value) => entries.insert(change.key, value),
            None => entries.remove(&change.key),
        };
    }
}
