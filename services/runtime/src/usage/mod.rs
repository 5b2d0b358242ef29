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
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contract::{
    NodeName, ServerName, Timestamp,
    fleet::ServerId,
    usage::{ENTRIES_MAX, ServerUsage, Traffic, Usage, UsageV1, UserUsage},
    users::UserId,
};
use disk::{Error, blocking};
use futures::future::join_all;
use journal::{Counted, Journal, Run, Step};
use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    time::{Instant, MissedTickBehavior, interval, timeout},
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
/// An engine that does not answer within this is asked again later.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// An engine that takes long to answer is left alone for so many times as long: who is let in or shut out meanwhile
/// waits for the answer, too, and with 10,000 WireGuard users that is 75 ms.
const READ_PAUSE: u32 = 100;
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
    /// The first engine serves.
    begun: Notify,
}

#[derive(Default)]
struct State {
    /// Opened when the first engine serves: a node without servers counts nothing.
    journal: Option<Arc<Journal>>,
    serving: BTreeMap<ServerId, Serving>,
    runs: HashMap<ServerId, Run>,
    /// Engines whose counters are not ours: what they stand at first counts as counted.
    found: HashSet<ServerId>,
    /// What was added, and is in no message yet.
    added: HashMap<ServerId, HashMap<UserId, Traffic>>,
    names: HashMap<ServerId, ServerName>,
    /// What the journal does not know yet.
    step: Step,
    next: u64,
    /// Messages up to here have been forgotten.
    forgotten: u64,
    /// Since when, in milliseconds since 1970.
    since: i64,
}

#[derive(Clone)]
struct Serving {
    engine: Arc<dyn Engine>,
    run: String,
    /// It was started by us, just now.
    started: bool,
    /// It is not read before.
    not_before: Instant,
    /// Read by one at a time, so that what is read later is counted later.
    reading: Arc<Mutex<()>>,
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
            begun: Notify::new(),
        }
    }

    /// Reads the engines every so often, for ever.
    pub(crate) async fn run(&self) {
        // A node that never had a server has nothing to do.
        if !self.path.exists() {
            self.begun.notified().await;
        }
        let mut due = interval(READ_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            due.tick().await;
            match self.read_and_keep().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    tracing::error!(%error, "what users send and receive cannot be kept");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    async fn read_and_keep(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        if state.journal.is_none() && (!state.serving.is_empty() || self.path.exists()) {
            self.open(&mut state).await?;
        }
        drop(state);
        self.read_all().await;
        self.keep().await
    }

    /// The engine of a server serves in the process `pid`. `started` says that it was started just now, by us.
    pub(crate) async fn serves(
        &self,
        (server, name): (ServerId, &ServerName),
        engine: Arc<dyn Engine>,
        pid: u32,
        started: bool,
    ) {
        // What the adapter that is replaced knows of who left is known to no other.
        self.read(server).await;
        let mut state = self.state.lock().await;
        let reading = state.serving.get(&server).map(|before| before.reading.clone()).unwrap_or_default();
        let serving = Serving { engine, run: run_of(pid), started, not_before: Instant::now(), reading };
        self.begun.notify_one();
        state.names.insert(server, name.clone());
        state.serving.insert(server, serving);
        if state.journal.is_some() {
            state.begin(server);
        } else if let Err(error) = self.open(&mut state).await {
            tracing::error!(%error, server = %name, "what its users send and receive is not counted yet");
        }
    }

    /// The server is gone, and its engine with it.
    pub(crate) async fn gone(&self, server: ServerId) {
        let mut state = self.state.lock().await;
        state.serving.remove(&server);
        state.found.remove(&server);
        if state.runs.remove(&server).is_some() {
            state.step.counted.retain(|(of, _), _| *of != server);
            state.step.runs.insert(server, None);
        }
    }

    async fn open(&self, state: &mut MutexGuard<'_, State>) -> Result<(), Error> {
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
        for server in state.serving.keys().copied().collect::<Vec<_>>() {
            state.begin(server);
        }
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

    /// Reads what a server's engine has counted. Also to be called before it is stopped, which is the last moment for it.
    pub(crate) async fn read(&self, server: ServerId) {
        let Some(reading) = self.serving(server).await.map(|serving| serving.reading) else { return };
        let _one_at_a_time = reading.lock().await;
        let Some(serving) = self.serving(server).await else { return };
        let asked = Instant::now();
        let answer = timeout(READ_WITHIN, serving.engine.usage()).await;
        let mut state = self.state.lock().await;
        let Some(now) = state.serving.get_mut(&server).filter(|now| now.run == serving.run) else { return };
        if !is_alive(&serving.run) {
            // Whoever answered was another run, which counts from nothing.
            state.serving.remove(&server);
            return;
        }
        now.not_before = Instant::now() + asked.elapsed() * READ_PAUSE;
        match answer {
            Ok(Ok(readings)) => state.count(server, readings),
            Ok(Err(error)) => {
                tracing::debug!(%error, "an engine does not say what its users send and receive");
            }
            Err(_) => tracing::debug!("an engine takes too long to say what its users send and receive"),
        }
    }

    /// What serves, where it can be counted.
    async fn serving(&self, server: ServerId) -> Option<Serving> {
        let state = self.state.lock().await;
        state.journal.as_ref()?;
        state.serving.get(&server).cloned()
    }

    /// Makes messages of what was added, and keeps them with what the counters stand at.
    async fn keep(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let Some(journal) = state.journal.clone() else { return Ok(()) };
        let told = self.told.load(Ordering::Relaxed);
        if state.step.is_empty() && state.added.is_empty() && told == state.forgotten {
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
        let step = Arc::new(step);
        let taking = step.clone();
        if let Err(error) = blocking(move || journal.take(&taking)).await {
            state.take_back(&step);
            return Err(error);
        }
        state.next = step.messages.last().map_or(next, |(sequence, _)| sequence + 1).max(next);
        state.added.clear();
        (state.since, state.forgotten) = (until, told);
        drop(state);
        self.more.notify_one();
        Ok(())
    }
}

impl State {
    /// What is known of the run in which a server's engine serves.
    fn begin(&mut self, server: ServerId) {
        let Some(Serving { run, started, .. }) = self.serving.get(&server) else { return };
        let known = self.runs.get(&server);
        if known.is_some_and(|known| known.id == *run) {
            return;
        }
        let is_new = self.journal.as_ref().is_some_and(|journal| journal.is_new);
        if known.is_none() && is_new && !started {
            self.found.insert(server);
        } else {
            self.found.remove(&server);
        }
        let run = run.clone();
        self.step.counted.retain(|(of, _), _| *of != server);
        self.step.runs.insert(server, Some(run.clone()));
        self.runs.insert(server, Run { id: run, counted: HashMap::new() });
    }

    fn count(&mut self, server: ServerId, readings: Vec<Reading>) {
        let Some(run) = self.runs.get_mut(&server) else { return };
        let found = self.found.remove(&server);
        for Reading { entry, user, traffic, falls, ends } in readings {
            let before = run.counted.get(&entry).copied();
            let counted = before.map_or(Traffic::NONE, |before| before.traffic);
            let user = user.or(before.and_then(|before| before.user));
            if user.is_none() && before.is_none() && !found {
                // Nobody knows yet whose it is: all of it is counted when somebody does.
                continue;
            }
            let fell = !ends && (traffic.up < counted.up || traffic.down < counted.down);
            let counted = if fell && falls { Traffic::NONE } else { counted };
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
        let mut room = 0;
        for (_, Usage::V1(usage)) in &mut messages {
            usage.until_millis = until;
            for server in &mut usage.servers {
                let Some(users) = added.get_mut(&server.server_id) else { continue };
                for entry in &mut server.users {
                    entry.traffic += users.remove(&entry.user).unwrap_or_default();
                }
            }
            room = ENTRIES_MAX.saturating_sub(usage.entries());
        }
        let mut next = self.next;
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
                    match usage.servers.iter_mut().find(|of| of.server_id == server_id) {
                        Some(of) => of.users.extend(users),
                        None => {
                            usage.servers.push(ServerUsage { server: server.clone(), server_id, users });
                        }
                    }
                }
            }
        }
        messages
    }

    /// What could not be kept is kept with what comes.
    fn take_back(&mut self, step: &Step) {
        for (key, counted) in &step.counted {
            self.step.counted.entry(key.clone()).or_insert(*counted);
        }
        for (server, run) in &step.runs {
            self.step.runs.entry(*server).or_insert_with(|| run.clone());
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

#[cfg(test)]
mod tests;
