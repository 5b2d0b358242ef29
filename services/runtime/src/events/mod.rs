//! What happens to the containers of this node, told once on `vpn.event.*`.
//!
//! - [`Events`] takes what is seen, lists after a gap, and tells
//! - [`known`]  pure: what an observation means for what was known, and so what happened
//! - [`record`] what is known and what was not told yet, on disk
//!
//! An event is what changes what is known, so whatever is seen twice, seen and found, or found again after a restart
//! happened once. What happened while nobody was looking is inferred from what is there afterwards, and says so.

mod known;
mod record;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bus::{Bus, insist, origin};
use contract::{
    NodeName, ServerName, Timestamp,
    runtime::{ContainerEvent, ContainerEventKind, ContainerEventV1},
};
use disk::{Error, blocking};
use known::{Happened, Known};
use record::{Record, Waiting};
use tokio::{
    sync::{Mutex, Notify, mpsc},
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{Instrument, info_span};
use uuid::Uuid;

use crate::{backend::ContainerRuntime, config::LOOK_EVERY};

/// The file in the state directory.
const FILE: &str = "events.redb";
/// So many observations wait to be taken note of; with more, what is there is listed instead.
const SEEN_MAX: usize = 1_024;
/// Between two tries, while the daemon is away or the disk is full.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// So many events wait for the bus, at some 100 bytes each; with more the oldest are given up, and the log says so.
const WAITING_MAX: u64 = 100_000;

/// Of many that wait, those that were told are forgotten so often.
const FORGET_EVERY: u64 = 64;

/// What happens to containers.
pub(crate) struct Events {
    node: NodeName,
    path: PathBuf,
    seen: mpsc::Sender<Seen>,
    receiver: Mutex<mpsc::Receiver<Seen>>,
    /// Something was missed: what is there has to be listed.
    gap: AtomicBool,
    wake: Notify,
    record: Mutex<Option<Arc<Record>>>,
    /// Events up to here have been told.
    told: Arc<AtomicU64>,
    more: Notify,
}

struct Seen {
    server: ServerName,
    kind: ContainerEventKind,
    traceparent: Option<String>,
}

impl Events {
    /// Those of this node, which keeps its record in this directory.
    pub(crate) fn new(node: NodeName, state_dir: &std::path::Path) -> Self {
        let (seen, receiver) = mpsc::channel(SEEN_MAX);
        Self {
            node,
            path: state_dir.join(FILE),
            seen,
            receiver: Mutex::new(receiver),
            gap: AtomicBool::new(true),
            wake: Notify::new(),
            record: Mutex::default(),
            told: Arc::default(),
            more: Notify::new(),
        }
    }

    /// The backend said that this happened.
    pub(crate) fn saw(&self, server: ServerName, kind: ContainerEventKind, traceparent: Option<String>) {
        if self.seen.try_send(Seen { server, kind, traceparent }).is_err() {
            self.missed();
        }
    }

    /// The backend may have said something that nobody heard.
    pub(crate) fn missed(&self) {
        self.gap.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Takes note of what is seen, and looks for what was not, for ever.
    pub(crate) async fn run(&self, backend: &dyn ContainerRuntime) {
        let mut seen = self.receiver.lock().await;
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut some = Vec::new();
            tokio::select! {
                biased;
                count = seen.recv_many(&mut some, SEEN_MAX) => if count > 0 {
                    self.insist(|known| some.iter().flat_map(|seen| known.saw(&seen.server, seen.kind, seen.traceparent.as_deref())).collect()).await;
                },
                () = self.wake.notified() => {}
                _ = ticks.tick() => self.gap.store(true, Ordering::SeqCst),
            }
            if self.gap.swap(false, Ordering::SeqCst) && !self.look(backend, &seen).await {
                self.gap.store(true, Ordering::SeqCst);
                sleep(RETRY_AFTER).await;
                self.wake.notify_one();
            }
        }
    }

    /// Compares what is there with what is known; false where that could not be done.
    async fn look(&self, backend: &dyn ContainerRuntime, seen: &mpsc::Receiver<Seen>) -> bool {
        let Ok(found) = backend.list().await else { return false };
        // What was seen meanwhile may be newer than the list, and is taken note of first.
        if !seen.is_empty() {
            return false;
        }
        self.insist(|known| known.found(&found)).await;
        true
    }

    /// Takes note of what happened; a disk that is full is waited for.
    async fn insist(&self, observe: impl Fn(&mut Known) -> Vec<Happened>) {
        let mut failing = false;
        while let Err(error) = self.note(&observe).await {
            if !std::mem::replace(&mut failing, true) {
                tracing::error!(%error, "what happens to containers cannot be kept");
            }
            sleep(RETRY_AFTER).await;
        }
    }

    async fn note(&self, observe: &impl Fn(&mut Known) -> Vec<Happened>) -> Result<(), Error> {
        if !self.is_kept().await && observe(&mut Known::default()).is_empty() {
            return Ok(());
        }
        let record = self.open().await?;
        let mut known = record.known();
        let happened = observe(&mut known);
        if known == record.known() && happened.is_empty() {
            return Ok(());
        }
        let at_millis = Timestamp::now().as_millisecond();
        let events = happened.into_iter().map(|happened| Waiting {
            event: ContainerEvent::V1(ContainerEventV1 {
                id: Uuid::now_v7(),
                node: self.node.clone(),
                server: happened.server,
                kind: happened.kind,
                at_millis,
                inferred: happened.inferred,
            }),
            traceparent: happened.traceparent,
        });
        let (events, told) = (events.collect::<Vec<_>>(), self.told.clone());
        blocking(move || {
            let given_up = record.take(known, &events, &told, WAITING_MAX)?;
            if given_up > 0 {
                tracing::error!(given_up, "events that the bus was not there for are given up");
            }
            Ok(())
        })
        .await?;
        self.more.notify_one();
        Ok(())
    }

    /// Whether there is a record: a node that never had a container needs none.
    async fn is_kept(&self) -> bool {
        self.record.lock().await.is_some() || self.path.exists()
    }

    async fn open(&self) -> Result<Arc<Record>, Error> {
        let mut record = self.record.lock().await;
        if let Some(record) = record.as_ref() {
            return Ok(record.clone());
        }
        let path = self.path.clone();
        let opened = Arc::new(blocking(move || Record::open(&path)).await?);
        *record = Some(opened.clone());
        // What waits from before.
        self.more.notify_one();
        Ok(opened)
    }

    /// The next event to tell. Where there is none, those that were told are forgotten: the bus knows an event that
    /// comes again for two minutes, and another agent may come later than that.
    async fn next_waiting(&self, told: u64) -> Result<Option<(u64, Waiting)>, Error> {
        if !self.is_kept().await {
            return Ok(None);
        }
        let record = self.open().await?;
        blocking(move || {
            let next = record.next_waiting(told)?;
            if told > 0 && (next.is_none() || told.is_multiple_of(FORGET_EVERY)) {
                record.forget(told)?;
            }
            Ok(next)
        })
        .await
    }

    /// Tells what waits and what comes, in order, each until it is stored on the bus; for ever.
    pub(crate) async fn tell(&self, bus: Bus) {
        // A node that has nothing to tell needs no stream.
        while !self.is_kept().await {
            self.more.notified().await;
        }
        insist("make the stream of events", || bus.own_stream::<ContainerEvent>()).await;
        loop {
            let told = self.told.load(Ordering::SeqCst);
            match self.next_waiting(told).await {
                Ok(Some((sequence, waiting))) => {
                    tell(&bus, &waiting).await;
                    self.told.store(sequence, Ordering::SeqCst);
                }
                Ok(None) => self.more.notified().await,
                Err(error) => {
                    tracing::error!(%error, "events cannot be told");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

async fn tell(bus: &Bus, waiting: &Waiting) {
    let ContainerEvent::V1(event) = &waiting.event;
    let span = info_span!(
        "event",
        otel.name = format!("{} {}", event.server, event.kind.as_str()),
        otel.kind = "producer",
        vpn.service = "runtime",
        vpn.sample = "always",
        vpn.server = %event.server,
    );
    // A daemon carries no trace: the container's label has the one that made it.
    origin::reminds_of(&span, &origin::trace_from(waiting.traceparent.as_deref()));
    insist("tell an event", || bus.publish(&waiting.event)).instrument(span).await;
}
