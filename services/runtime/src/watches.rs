//! What the agent follows on the bus.

use std::time::Duration;

use bus::{Bus, Change, Watch};
use contract::{
    fleet::Server,
    keys::{Credentials, Grant, Prekeys, ServerKeys},
    users::User,
};
use tokio::time::sleep;

use crate::{Ctx, desired::Desired};

/// Between two tries to reach the state on the bus: the first and the longest pause.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// What is watched on the bus.
pub(crate) struct Watches {
    bus: Bus,
    servers: Watch<Server>,
    server_keys: Watch<ServerKeys>,
    grant: Watch<Grant>,
    /// Only where there is something to connect to: a node that serves nothing knows nobody.
    admission: Option<Admission>,
}

/// Who may connect, and with what.
struct Admission {
    users: Watch<User>,
    credentials: Watch<Credentials>,
    prekeys: Watch<Prekeys>,
}

/// What has changed.
pub(crate) enum Changed {
    Servers(Vec<Change<Server>>),
    ServerKeys(Vec<Change<ServerKeys>>),
    Grant(Vec<Change<Grant>>),
    Users(Vec<Change<User>>),
    Credentials(Vec<Change<Credentials>>),
    Prekeys(Vec<Change<Prekeys>>),
}

impl Watches {
    /// Everything that is desired now, and the watches on what follows. What went away meanwhile is no news on the
    /// bus, so everything is read before it is compared.
    pub(crate) async fn begin(bus: &Bus, ctx: &Ctx) -> (Self, Desired) {
        let mut watches = insist(|| Self::open(bus, ctx)).await;
        let mut desired = Desired::default();
        watches.read_into(&mut desired, ctx).await;
        watches.mind(&mut desired).await;
        (watches, desired)
    }

    async fn open(bus: &Bus, ctx: &Ctx) -> Result<Self, contract::Error> {
        Ok(Self {
            bus: bus.clone(),
            servers: bus.own().await?.watch().await?,
            server_keys: bus.own().await?.watch().await?,
            grant: bus.own().await?.watch_keys(ctx.config.node.as_str()).await?,
            admission: None,
        })
    }

    async fn read_into(&mut self, desired: &mut Desired, ctx: &Ctx) {
        while !self.servers.is_current() {
            self.servers.next().await.into_iter().for_each(|change| desired.server(&ctx.config.node, change));
        }
        while !self.server_keys.is_current() {
            self.server_keys.next().await.into_iter().for_each(|change| desired.server_keys(change));
        }
        while !self.grant.is_current() {
            for change in self.grant.next().await {
                desired.grant = change.entry.value;
            }
        }
    }

    /// Sees to it that who may connect is known where there are servers, and only there.
    pub(crate) async fn mind(&mut self, desired: &mut Desired) {
        if desired.servers.is_empty() {
            self.admission = None;
            desired.forget_users();
        } else if self.admission.is_none() {
            let bus = &self.bus;
            let mut admission = insist(|| Admission::open(bus)).await;
            admission.read_into(desired).await;
            self.admission = Some(admission);
        }
    }

    /// What changes next. Nothing is lost where the wait is dropped.
    pub(crate) async fn next(&mut self) -> Changed {
        tokio::select! {
            changes = self.servers.next() => Changed::Servers(changes),
            changes = self.server_keys.next() => Changed::ServerKeys(changes),
            changes = self.grant.next() => Changed::Grant(changes),
            news = Admission::next(&mut self.admission) => news,
        }
    }
}

impl Admission {
    async fn open(bus: &Bus) -> Result<Self, contract::Error> {
        // All buckets first: a watch that is begun in vain stays on the server for a while.
        let (users, credentials, prekeys) = (bus.own().await?, bus.own().await?, bus.own().await?);
        Ok(Self {
            users: users.watch().await?,
            credentials: credentials.watch().await?,
            prekeys: prekeys.watch().await?,
        })
    }

    async fn read_into(&mut self, desired: &mut Desired) {
        while !self.users.is_current() {
            self.users.next().await.into_iter().for_each(|change| drop(desired.user(change)));
        }
        while !self.credentials.is_current() {
            self.credentials.next().await.into_iter().for_each(|change| drop(desired.credentials(change)));
        }
        desired.prekeys = Some(None);
        while !self.prekeys.is_current() {
            for change in self.prekeys.next().await {
                desired.prekeys = Some(change.entry.value);
            }
        }
    }

    async fn next(admission: &mut Option<Self>) -> Changed {
        let Some(admission) = admission else { return std::future::pending().await };
        tokio::select! {
            changes = admission.users.next() => Changed::Users(changes),
            changes = admission.credentials.next() => Changed::Credentials(changes),
            changes = admission.prekeys.next() => Changed::Prekeys(changes),
        }
    }
}

async fn insist<W, F>(open: impl Fn() -> F) -> W
where
    F: Future<Output = Result<W, contract::Error>>,
{
    let mut pause = RETRY_AFTER[0];
    loop {
        match open().await {
            Ok(watches) => return watches,
            Err(error) => {
                tracing::warn!(%error, "cannot see yet what is desired");
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_AFTER[1]);
            }
        }
    }
}
