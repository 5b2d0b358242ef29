//! The agent: folds what the fleet wants of this node, and gives each instance's worker its order and its users.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use bus::{Bus, Change, origin::Trace, watch::causes};
use contract::{
    Protocol, ServerName, UserName,
    fleet::Server,
    keys::{Grant, Prekeys, ServerKeys},
};
use seal::CurveKey;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Ctx,
    config::BUS_WITHIN,
    desired::Desired,
    engine::{EngineServer, UserSecret},
    mailbox::{Coming, Order, Roster},
    opener::Opener,
    saved::Saved,
    watches::{Changed, Watches},
    workers::Workers,
};

/// Between a change of users and its copy on disk: many changes make one copy. Servers change rarely, and a copy that
/// is behind would make an instance anew, so their changes are copied at once.
const SAVE_AFTER: Duration = Duration::from_secs(2);

/// The agent.
pub(crate) struct Agent {
    ctx: Arc<Ctx>,
    workers: Arc<Workers>,
    saved: Saved,
    opener: Opener,
    desired: Desired,
    /// The users of the protocols that this node serves.
    rosters: BTreeMap<Protocol, Roster>,
    save_at: Option<Instant>,
    /// Says whether it succeeded.
    saving: Option<JoinHandle<bool>>,
    started: bool,
}

impl Agent {
    /// One that wants nothing yet.
    pub(crate) fn new(ctx: Arc<Ctx>, workers: Arc<Workers>, saved: Saved, key: CurveKey) -> Self {
        let desired = Desired::default();
        Self {
            ctx,
            workers,
            saved,
            opener: Opener::new(key),
            desired,
            rosters: BTreeMap::new(),
            save_at: None,
            saving: None,
            started: false,
        }
    }

    /// Serves what was desired last, until the bus says what is desired now; once.
    pub(crate) fn start_from_saved(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        if let Some(desired) = self.saved.load() {
            tracing::info!(
                servers = desired.servers.len(),
                "serves what was desired last, until the bus is there"
            );
            self.adopt(desired);
        }
    }

    /// Follows the bus, for ever.
    pub(crate) async fn follow(mut self, bus: Bus) {
        let ctx = self.ctx.clone();
        // Watches are large: on the heap, or moving the agent to its task overflows a thread's stack.
        let mut synced = Box::pin(Watches::begin(&bus, &ctx));
        let (mut watches, desired) = match timeout(BUS_WITHIN, &mut synced).await {
            Ok(synced) => synced,
            Err(_) => {
                self.start_from_saved();
                synced.await
            }
        };
        self.adopt(desired);
        // What was saved may be older than what runs: only now is it known that something is too much.
        self.workers.only(&self.desired.servers.keys().cloned().collect());
        self.save_at = Some(Instant::now());
        loop {
            self.step(&mut watches).await;
        }
    }

    async fn step(&mut self, watches: &mut Watches) {
        let save_at = self.save_at;
        let due = async move {
            match save_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let news = tokio::select! {
            news = watches.next() => news,
            () = due => return self.save(),
            saved = ended(&mut self.saving) => {
                self.saving = None;
                if !saved {
                    self.save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
                }
                return;
            }
        };
        match news {
            Changed::Servers(changes) => {
                let changed = self.servers(changes);
                // Who may connect is known before the first server starts, and forgotten after the last.
                Box::pin(watches.mind(&mut self.desired)).await;
                if !changed.is_empty() {
                    self.save_at = Some(Instant::now());
                }
                changed.iter().for_each(|(name, cause)| self.order(name, Some(cause)));
            }
            Changed::ServerKeys(changes) => {
                if self.server_keys(changes) {
                    self.save_at = Some(Instant::now());
                }
            }
            Changed::Grant(changes) => {
                self.grant(changes);
                self.save_at = Some(Instant::now());
            }
            Changed::Users(changes) => {
                let causes = causes(&changes);
                let names = changes.into_iter().filter_map(|change| self.desired.user(change)).collect();
                self.users(names, &causes);
            }
            Changed::Credentials(changes) => {
                let causes = causes(&changes);
                let names =
                    changes.into_iter().filter_map(|change| self.desired.credentials(change)).collect();
                self.users(names, &causes);
            }
            Changed::Prekeys(changes) => {
                if let Some(change) = changes.into_iter().next_back() {
                    self.desired.prekeys = Some(change.entry.value);
                    self.expect();
                }
                return;
            }
        }
        self.save_at.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }

    /// Everything is desired anew.
    fn adopt(&mut self, desired: Desired) {
        self.desired = desired;
        self.opener.take(self.desired.grant.as_ref());
        self.rosters.clear();
        self.order_all(|_| true, None);
    }

    fn order_all(&mut self, which: impl Fn(&Server) -> bool, cause: Option<&Trace>) {
        let servers = self.desired.servers.values().filter(|server| which(server));
        for name in servers.map(|server| server.name.clone()).collect::<Vec<_>>() {
            self.order(&name, cause);
        }
    }

    fn order(&mut self, name: &ServerName, cause: Option<&Trace>) {
        let order = self.order_for(name);
        self.workers.order(name, &order, cause);
    }

    fn order_for(&mut self, name: &ServerName) -> Order {
        let Some(server) = self.desired.servers.get(name).cloned() else { return Order::Gone };
        let keys = self.desired.server_keys.get(name).filter(|keys| keys.server_id == server.id);
        let opened = keys.and_then(|keys| {
            let secret = self.opener.server(&server, keys).inspect_err(|error| {
                tracing::debug!(server = %name, %error, "its key cannot be opened yet");
            });
            Some((keys.public.clone(), secret.ok()?))
        });
        let Some((public, secret)) = opened else { return Order::Wait(Arc::new(server)) };
        let roster = self.roster(server.protocol);
        let own_addresses = self.ctx.own_addresses.clone();
        Order::Serve(Arc::new(EngineServer { server, public, secret, own_addresses }), roster)
    }

    /// The users of a protocol, opened when it is served first.
    fn roster(&mut self, protocol: Protocol) -> Roster {
        if let Some(roster) = self.rosters.get(&protocol) {
            return roster.clone();
        }
        let roster = Roster::default();
        {
            let mut users = roster.lock();
            for name in self.desired.active.keys() {
                if let Some(user) = self.opener.access(&self.desired, name, protocol) {
                    users.insert(name.clone(), user);
                }
            }
        }
        self.rosters.insert(protocol, roster.clone());
        if protocol == Prekeys::PROTOCOL {
            self.expect();
        }
        roster
    }

    /// Returns what concerns this node.
    fn servers(&mut self, changes: Vec<Change<Server>>) -> Vec<(ServerName, Trace)> {
        let mut ours = Vec::new();
        for change in changes {
            let Ok(name) = change.key.parse::<ServerName>() else { continue };
            let cause = change.trace();
            let before = self.desired.servers.get(&name).cloned();
            self.desired.server(&self.ctx.config.node, change);
            if before.as_ref() != self.desired.servers.get(&name) {
                ours.push((name, cause));
            }
        }
        // The secrets of a protocol that is not served any more are nobody's business here.
        let Self { rosters, desired, .. } = self;
        rosters.retain(|protocol, _| desired.serves(*protocol));
        ours
    }

    /// Says whether it concerns this node.
    fn server_keys(&mut self, changes: Vec<Change<ServerKeys>>) -> bool {
        let mut ours = false;
        for change in changes {
            let Ok(name) = change.key.parse::<ServerName>() else { continue };
            let cause = change.trace();
            self.desired.server_keys(change);
            if self.desired.servers.contains_key(&name) {
                ours = true;
                self.order(&name, Some(&cause));
            }
        }
        ours
    }

    fn grant(&mut self, changes: Vec<Change<Grant>>) {
        let Some(change) = changes.into_iter().next_back() else { return };
        let cause = change.trace();
        self.desired.grant = change.entry.value;
        // What could not be opened before may be open now, and the other way round.
        let changed = self.opener.take(self.desired.grant.as_ref());
        self.rosters.retain(|protocol, _| !changed.contains(protocol));
        self.order_all(|server| changed.contains(&server.protocol), Some(&cause));
    }

    /// Tells the engines with which keys the next Shadowsocks users will come: those of whom nobody has one. A user
    /// who has one and may not connect keeps it all the same.
    fn expect(&mut self) {
        let Some(roster) = self.rosters.get(&Prekeys::PROTOCOL) else { return };
        let Some(known) = &self.desired.prekeys else { return };
        let opened = known.as_ref().map_or(Ok(Vec::new()), |prekeys| self.opener.prekeys(prekeys));
        let opened = opened.unwrap_or_else(|error| {
            tracing::warn!(%error, "the keys of the next users cannot be opened");
            Vec::new()
        });
        let coming = self.without_those_of(&opened, roster, self.desired.credentials.keys());
        roster.expect(coming.clone());
        self.workers.coming(self.desired.serving(Prekeys::PROTOCOL), &coming);
    }

    /// The keys that these users have are nobody else's any more.
    fn expect_no_more(&self, users: &BTreeSet<UserName>) {
        let Some(roster) = self.rosters.get(&Prekeys::PROTOCOL) else { return };
        let Some(expected) = roster.coming().filter(|coming| !coming.is_empty()) else { return };
        let coming = self.without_those_of(&expected, roster, users.iter());
        if coming.len() < expected.len() {
            roster.expect(coming.clone());
            self.workers.coming(self.desired.serving(Prekeys::PROTOCOL), &coming);
        }
    }

    fn without_those_of<'a>(
        &self,
        secrets: &[UserSecret],
        roster: &Roster,
        users: impl Iterator<Item = &'a UserName>,
    ) -> Coming {
        let mut had: HashSet<&[u8; 16]> = HashSet::new();
        let expected: HashSet<&[u8; 16]> = secrets.iter().filter_map(UserSecret::shadowsocks).collect();
        let active = roster.lock();
        for name in users.filter(|_| !expected.is_empty()) {
            // Of those who may not connect it has to be opened.
            let opened = match (active.get(name), self.desired.credentials.get(name)) {
                (Some(user), _) => Some(user.clone()),
                (None, Some(credentials)) => self.opener.user(name, credentials, Prekeys::PROTOCOL).ok(),
                (None, None) => None,
            };
            let key = opened.as_ref().and_then(|user| user.secret.shadowsocks());
            had.extend(key.and_then(|key| expected.get(key).copied()));
        }
        let left = secrets.iter().filter(|secret| secret.shadowsocks().is_none_or(|key| !had.contains(key)));
        left.cloned().collect()
    }

    fn users(&mut self, names: BTreeSet<UserName>, causes: &[Trace]) {
        self.admit(&names, causes);
        // After them: who takes a key that was expected has it from then on.
        self.expect_no_more(&names);
    }

    fn admit(&mut self, names: &BTreeSet<UserName>, causes: &[Trace]) {
        let Self { rosters, desired, opener, workers, .. } = self;
        for (protocol, roster) in rosters {
            let mut changed = Vec::new();
            {
                let mut users = roster.lock();
                for name in names {
                    let user = opener.access(desired, name, *protocol);
                    if users.get(name) == user.as_ref() {
                        continue;
                    }
                    match user {
                        Some(user) => users.insert(name.clone(), user),
                        None => users.remove(name),
                    };
                    changed.push(name.clone());
                }
            }
            if !changed.is_empty() {
                workers.users(desired.serving(*protocol), &changed, causes);
            }
        }
    }

    /// Copies what is desired to disk, while it goes on changing.
    fn save(&mut self) {
        if self.saving.is_some() {
            self.save_at = Some(Instant::now() + SAVE_AFTER);
            return;
        }
        self.save_at = None;
        let (saved, desired) = (self.saved.clone(), self.desired.clone());
        self.saving = Some(tokio::task::spawn_blocking(move || {
            let saved = saved.save(&desired);
            if let Err(error) = &saved {
                tracing::warn!(%error, "what is desired could not be saved; it is tried again");
            }
            saved.is_ok()
        }));
    }
}

async fn ended(saving: &mut Option<JoinHandle<bool>>) -> bool {
    match saving {
        Some(saving) => saving.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}
