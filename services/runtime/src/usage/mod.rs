//! What users send and receive on this node, counted exactly once.
//!
//! - [`Meter`]   reads the engines' counters and keeps what was added since
//! - [`journal`] what was counted and not told yet, on disk
//! - [`tell`]    it goes over the bus
//!
//! Counters are read without reset. What was added to them since the last reading becomes a message, and one
//! transaction notes both: where the counters stood, and the message. So an agent that is killed at any moment goes on
//! where it was, and an engine's own death costs what it counted since the last reading.

mod journal;
mod tell;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contract::{
    NodeName, ServerName, Timestamp,
    fleet::{Server, ServerId},
    usage::{ENTRIES_MAX, ServerUsage, Traffic, Usage, UsageV1, UserUsage},
    users::UserId,
};
use disk::{Error, blocking};
use futures::future::join_all;
use journal::{Counted, Journal, Run, Step};
use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    time::{Instant, MissedTickBehavior, interval},
};
use uuid::Uuid;

use crate::{
    backend::process::identity,
    engine::{Engine, Reading},
};

/// The file in the state directory.
const FILE: &str = "usage.redb";
/// Between two readings of an engine.
const READ_EVERY: Duration = Duration::from_secs(1);
/// An engine that takes long to answer is left alone for so many times as long.
const READ_PAUSE: u32 = 20;
/// So many messages wait for the bus, ten minutes of them; from then on what is added goes into the last one. So what
/// waits is bounded by the users and servers there are, and nothing is lost but the time of day.
const WAITING_MAX: usize = 600;

/// Counts what users send and receive.
pub(crate) struct Meter {
    node: NodeName,
    path: PathBuf,
    state: Mutex<State>,
    /// Messages up to here have been told.
    told: AtomicU64,
    more: Notify,
}

#[derive(Default)]
struct State {
    /// Opened when the first engine serves: a node without servers counts nothing.
    journal: Option<Arc<Journal>>,
    serving: BTreeMap<ServerId, Serving>,
    runs: HashMap<ServerId, Run>,
    /// What was added, and is in no message yet.
    added: HashMap<ServerId, HashMap<UserId, Traffic>>,
    names: HashMap<ServerId, ServerName>,
    /// What the journal does not know yet.
    step: Step,
    next: u64,
    /// Since when, in milliseconds since 1970.
    since: i64,
}

#[derive(Clone)]
struct Serving {
    engine: Arc<dyn Engine>,
    /// Its counters are not ours: what they stand at first counts as counted.
    found: bool,
    /// It is not read before.
    not_before: Instant,
}

impl Meter {
    /// One that keeps its journal in this directory.
    pub(crate) fn new(node: NodeName, state_dir: &std::path::Path) -> Self {
        Self {
            node,
            path: state_dir.join(FILE),
            state: Mutex::default(),
            told: AtomicU64::new(0),
            more: Notify::new(),
        }
    }

    /// Reads the engines every so often, for ever.
    pub(crate) async fn run(&self) {
        let mut due = interval(READ_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            due.tick().await;
            self.read_all().await;
            match self.keep().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    tracing::error!(%error, "what users send and receive is counted, and cannot be kept");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    /// The engine of a server serves in the process `pid`. `started` says that it was started just now, by us.
    pub(crate) async fn serves(&self, server: &Server, engine: Arc<dyn Engine>, pid: u32, started: bool) {
        // What the adapter that is replaced knows of who left is known to no other.
        self.read(server.id).await;
        let mut state = self.state.lock().await;
        if let Err(error) = self.open(&mut state).await {
            tracing::error!(%error, server = %server.name, "what its users send and receive is not counted");
            return;
        }
        let id = run_of(pid);
        let is_new = state.journal.as_ref().is_some_and(|journal| journal.is_new);
        let found = match state.runs.get(&server.id) {
            Some(run) if run.id == id => state.serving.get(&server.id).is_some_and(|serving| serving.found),
            known => {
                let found = known.is_none() && is_new && !started;
                state.runs.insert(server.id, Run { id: id.clone(), counted: HashMap::new() });
                state.step.counted.retain(|(of, _), _| *of != server.id);
                state.step.runs.insert(server.id, Some(id));
                found
            }
        };
        state.names.insert(server.id, server.name.clone());
        state.serving.insert(server.id, Serving { engine, found, not_before: Instant::now() });
    }

    /// The engine of a server is about to be stopped, or started: what it counts from now on is of no run that is
    /// known.
    pub(crate) async fn stops(&self, server: ServerId) {
        self.read(server).await;
        self.state.lock().await.serving.remove(&server);
    }

    /// The server is gone, and its engine with it.
    pub(crate) async fn gone(&self, server: ServerId) {
        let mut state = self.state.lock().await;
        state.serving.remove(&server);
        if state.runs.remove(&server).is_some() {
            state.step.counted.retain(|(of, _), _| *of != server);
            state.step.runs.insert(server, None);
        }
    }

    async fn open(&self, state: &mut MutexGuard<'_, State>) -> Result<(), Error> {
        if state.journal.is_some() {
            return Ok(());
        }
        let path = self.path.clone();
        let (journal, runs, next) = blocking(move || {
            let journal = Journal::open(&path)?;
            let (runs, next) = journal.load()?;
            Ok((journal, runs, next))
        })
        .await?;
        // A run that is over never comes back.
        let (alive, over): (HashMap<_, _>, HashMap<_, _>) =
            runs.into_iter().partition(|(_, run)| is_alive(&run.id));
        state.step.runs.extend(over.into_keys().map(|server| (server, None)));
        (state.journal, state.runs, state.next) = (Some(Arc::new(journal)), alive, next);
        state.since = now();
        // What waits from before.
        self.more.notify_one();
        Ok(())
    }

    async fn read_all(&self) {
        let now = Instant::now();
        let serving = self.state.lock().await.serving.clone();
        let due = serving.into_iter().filter(|(_, serving)| serving.not_before <= now).map(|(id, _)| id);
        join_all(due.map(|server| self.read(server))).await;
    }

    async fn read(&self, server: ServerId) {
        let (serving, run) = {
            let state = self.state.lock().await;
            let Some(serving) = state.serving.get(&server).cloned() else { return };
            (serving, state.runs.get(&server).map(|run| run.id.clone()))
        };
        let asked = Instant::now();
        let answer = serving.engine.usage().await;
        let not_before = Instant::now() + asked.elapsed() * READ_PAUSE;
        let readings = match answer {
            Ok(readings) => readings,
            Err(error) => {
                tracing::debug!(%error, "an engine does not say what its users send and receive");
                return;
            }
        };
        let mut state = self.state.lock().await;
        // What was read of a run that ended meanwhile says nothing about the next one.
        if state.runs.get(&server).map(|run| &run.id) == run.as_ref()
            && let Some(serving) = state.serving.get_mut(&server)
        {
            serving.not_before = not_before;
            state.count(server, readings);
        }
    }

    /// Makes messages of what was added, and keeps them with what the counters stand at.
    async fn keep(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let Some(journal) = state.journal.clone() else { return Ok(()) };
        let told = self.told.load(Ordering::Relaxed);
        if state.step.is_empty() && state.added.is_empty() {
            return Ok(());
        }
        let (until, next) = (now(), state.next);
        let waiting = {
            let journal = journal.clone();
            blocking(move || {
                let waiting = journal.count_waiting(told)?;
                Ok(if waiting >= WAITING_MAX { journal.last_waiting(told)? } else { None })
            })
            .await?
        };
        let mut step = std::mem::take(&mut state.step);
        step.told = told;
        step.messages = state.messages(&self.node, journal.boot, until, waiting);
        let (step, taken) = blocking(move || {
            let taken = journal.take(&step);
            Ok((step, taken))
        })
        .await?;
        if let Err(error) = taken {
            state.take_back(step);
            return Err(error);
        }
        state.next = step.messages.last().map_or(next, |(sequence, _)| sequence + 1).max(next);
        state.added.clear();
        state.since = until;
        drop(state);
        self.more.notify_one();
        Ok(())
    }
}

impl State {
    fn count(&mut self, server: ServerId, readings: Vec<Reading>) {
        let Some(run) = self.runs.get_mut(&server) else { return };
        let Some(serving) = self.serving.get_mut(&server) else { return };
        let found = std::mem::take(&mut serving.found);
        for Reading { entry, user, traffic, ends } in readings {
            let before = run.counted.get(&entry).copied();
            let counted = before.map_or(Traffic::NONE, |before| before.traffic);
            let user = user.or(before.and_then(|before| before.user));
            let more = if found { Traffic::NONE } else { traffic.since(counted) };
            if let Some(user) = user.filter(|_| more != Traffic::NONE) {
                *self.added.entry(server).or_default().entry(user).or_default() += more;
            }
            let now = (!ends).then_some(Counted { user, traffic: counted + traffic.since(counted) });
            if now == before {
                continue;
            }
            match now {
                Some(now) => drop(run.counted.insert(entry.clone(), now)),
                None => drop(run.counted.remove(&entry)),
            }
            self.step.counted.insert((server, entry), now);
        }
    }

    /// What was added, as messages; into `last` first, where that is given.
    fn messages(
        &self,
        node: &NodeName,
        boot: Uuid,
        until: i64,
        last: Option<(u64, Usage)>,
    ) -> Vec<(u64, Usage)> {
        let mut added = self.added.clone();
        let mut messages: Vec<_> = last.into_iter().collect();
        for (_, Usage::V1(usage)) in &mut messages {
            usage.until_millis = until;
            for server in &mut usage.servers {
                let Some(users) = added.get_mut(&server.server_id) else { continue };
                for entry in &mut server.users {
                    entry.traffic += users.remove(&entry.user).unwrap_or_default();
                }
            }
        }
        let mut next = self.next;
        let mut room = 0;
        for (server_id, users) in added {
            let Some(server) = self.names.get(&server_id) else { continue };
            let mut users = users.into_iter().map(|(user, traffic)| UserUsage { user, traffic }).peekable();
            while users.peek().is_some() {
                if room == 0 {
                    let usage = UsageV1 {
                        node: node.clone(),
                        boot,
                        sequence: next,
                        from_millis: self.since,
                        until_millis: until,
                        servers: Vec::new(),
                    };
                    messages.push((next, Usage::V1(usage)));
                    (next, room) = (next + 1, ENTRIES_MAX);
                }
                let users: Vec<_> = users.by_ref().take(room).collect();
                room -= users.len();
                if let Some((_, Usage::V1(usage))) = messages.last_mut() {
                    usage.servers.push(ServerUsage { server: server.clone(), server_id, users });
                }
            }
        }
        messages
    }

    /// What could not be kept is kept with what comes.
    fn take_back(&mut self, step: Step) {
        for (key, counted) in step.counted {
            self.step.counted.entry(key).or_insert(counted);
        }
        for (server, run) in step.runs {
            self.step.runs.entry(server).or_insert(run);
        }
    }
}

/// Names a run of an engine for all time: the boot of the machine, and the process in it.
fn run_of(pid: u32) -> String {
    let began = identity::began(pid).unwrap_or_default();
    format!("{} {pid} {began}", identity::boot())
}

fn is_alive(run: &str) -> bool {
    let pid = run.split(' ').nth(1).and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| run_of(pid) == run)
}

/// Milliseconds since 1970 UTC, by this node's clock.
fn now() -> i64 {
    Timestamp::now().as_millisecond()
}
