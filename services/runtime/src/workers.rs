//! The workers, one for each instance that is or should be, and what wakes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bus::{Shutdown, origin::Trace};
use contract::{ServerName, UserName};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use uuid::Uuid;

use crate::{
    Ctx,
    backend::Notice,
    config::LOOK_EVERY,
    instance::{Instance, run_dir},
    mailbox::{Coming, Mailbox, Order},
};

/// A run directory without an instance that did not change for so long is left over.
const LEFT_AFTER: Duration = Duration::from_secs(600);

/// The workers of this node.
pub(crate) struct Workers {
    ctx: Arc<Ctx>,
    shutdown: Shutdown,
    mailboxes: Mutex<BTreeMap<ServerName, Arc<Mailbox>>>,
    /// Whether it is known what should be there; before that nothing counts as an orphan.
    informed: watch::Sender<bool>,
}

impl Workers {
    /// None yet.
    pub(crate) fn new(ctx: Arc<Ctx>, shutdown: Shutdown) -> Self {
        Self { ctx, shutdown, mailboxes: Mutex::default(), informed: watch::Sender::new(false) }
    }

    /// Gives an order; a worker is there for it or is made.
    pub(crate) fn order(&self, server: &ServerName, order: &Order, cause: Option<&Trace>) {
        let mut mailboxes = self.lock();
        let taken = mailboxes.get(server).is_some_and(|mailbox| mailbox.order(order.clone(), cause.cloned()));
        if !taken {
            self.hire(&mut mailboxes, server, order, cause);
        }
    }

    /// The first order of a worker that is made for it.
    fn hire(
        &self,
        mailboxes: &mut BTreeMap<ServerName, Arc<Mailbox>>,
        server: &ServerName,
        order: &Order,
        cause: Option<&Trace>,
    ) {
        let mailbox = Arc::new(Mailbox::default());
        mailbox.order(order.clone(), cause.cloned());
        mailboxes.insert(server.clone(), mailbox.clone());
        self.shutdown.spawn_until("instance", Instance::new(self.ctx.clone(), server.clone(), mailbox).run());
    }

    /// These are all orders there are: other workers have nothing to keep any more.
    pub(crate) fn only(&self, servers: &BTreeSet<ServerName>) {
        let others: Vec<ServerName> =
            self.lock().keys().filter(|name| !servers.contains(*name)).cloned().collect();
        for server in others {
            self.order(&server, &Order::Gone, None);
        }
        self.informed.send_replace(true);
    }

    /// Waits until it is known what should be there, and takes back what was said of servers that went away while no
    /// agent was here to see it.
    pub(crate) async fn forget_others(&self, said: impl Fn() -> Vec<contract::runtime::Instance>) {
        let _ = self.informed.subscribe().wait_for(|informed| *informed).await;
        for instance in said() {
            let wanted = self.lock().contains_key(&instance.server);
            if instance.node == self.ctx.config.node && !wanted {
                self.order(&instance.server, &Order::Gone, None);
            }
        }
    }

    /// The rosters have changed for these users; the workers of these servers let them in or out.
    pub(crate) fn users<'a>(
        &self,
        servers: impl Iterator<Item = &'a ServerName>,
        users: &[UserName],
        causes: &[Trace],
    ) {
        let mailboxes = self.lock();
        for mailbox in servers.filter_map(|server| mailboxes.get(server)) {
            mailbox.users(users, causes);
        }
    }

    /// These are expected on these servers.
    pub(crate) fn coming<'a>(&self, servers: impl Iterator<Item = &'a ServerName>, coming: &Coming) {
        let mailboxes = self.lock();
        servers.filter_map(|server| mailboxes.get(server)).for_each(|mailbox| mailbox.coming(coming.clone()));
    }

    /// Wakes workers when something happens to their instances, and finds instances that have none.
    pub(crate) async fn look_out(self: Arc<Self>, mut notices: mpsc::Receiver<Notice>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut informed = self.informed.subscribe();
        loop {
            tokio::select! {
                Ok(()) = informed.changed() => self.find_orphans().await,
                notice = notices.recv() => match notice {
                    Some(Notice::Container { server, kind, traceparent }) => {
                        self.wake(&server);
                        self.ctx.events.saw(server, kind, traceparent);
                    }
                    Some(Notice::Gap) => {
                        self.ctx.events.missed();
                        self.lock().values().for_each(|mailbox| mailbox.look());
                        self.find_orphans().await;
                    }
                    None => return,
                },
                _ = ticks.tick() => self.find_orphans().await,
            }
        }
    }

    /// Looks for instances of this node that nobody wants: left by an agent that was killed, or made by hand.
    async fn find_orphans(&self) {
        if !*self.informed.borrow() {
            return;
        }
        match self.ctx.backend.list().await {
            Ok(containers) => {
                self.clear_run_dir(
                    containers.iter().map(|container| run_dir(&self.ctx, &container.server_id)),
                )
                .await;
                // All under one lock: an order that came in between would be replaced by ours.
                let mut mailboxes = self.lock();
                for container in containers {
                    if !mailboxes.contains_key(&container.server) {
                        tracing::warn!(server = %container.server, "an instance that nobody wants is removed");
                        self.hire(&mut mailboxes, &container.server, &Order::Gone, None);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "cannot look for orphans now"),
        }
    }

    /// Removes run directories, which hold secrets, of instances that are no more: left by an agent that was killed
    /// while it removed one. A directory is made after its instance, so a young one without may be on its way.
    async fn clear_run_dir(&self, used: impl Iterator<Item = PathBuf>) {
        let used: BTreeSet<PathBuf> = used.collect();
        let run_dir = self.ctx.config.run_dir.clone();
        let cleared = tokio::task::spawn_blocking(move || -> io::Result<()> {
            for entry in std::fs::read_dir(run_dir)? {
                let entry = entry?;
                let ours = entry.file_name().to_str().is_some_and(|name| Uuid::try_parse(name).is_ok());
                let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
                if ours && age > LEFT_AFTER && !used.contains(&entry.path()) {
                    tracing::info!(path = %entry.path().display(), "a run directory that was left is removed");
                    std::fs::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        });
        match cleared.await {
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "run directories may be left");
            }
            _ => {}
        }
    }

    fn wake(&self, server: &ServerName) {
        if let Some(mailbox) = self.lock().get(server) {
            mailbox.look();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerName, Arc<Mailbox>>> {
        let mut mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        mailboxes.retain(|_, mailbox| !mailbox.is_closed());
        mailboxes
    }
}
