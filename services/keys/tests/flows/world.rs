//! A bus with the three services on it; `keys` can be killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use bus::{Bucket, Bus, Shutdown};
use contract::{
    Error, NodeName, Protocol, State, Timestamp,
    fleet::{
        AddressSource, Announce, CreateServer, ListServers, PublicAddress, Reality, Server, ServerReply,
    },
    keys::{Credentials, KeysStatus, Status},
    users::{Create, CreateMany, List, User},
};
use keys::Config;
use seal::MasterKey;
use tempfile::TempDir;
use testkit::{nats::NatsServer, wait::eventually};
use tokio::{runtime, task::JoinHandle};

/// Long enough for two cores that also compile.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// `keys` with threads of its own, so that all of it can end between two steps.
pub(crate) struct Process {
    runtime: Option<runtime::Runtime>,
    shutdown: Shutdown,
    served: JoinHandle<Result<(), Error>>,
}

impl Process {
    pub(crate) fn start(url: String, config: Config) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = Shutdown::new();
        let serving = shutdown.clone();
        let served = runtime.spawn(async move {
            let bus = Bus::connect(&bus::Config::new(url, "keys")).await?;
            keys::serve(bus, config, serving).await
        });
        Self { runtime: Some(runtime), shutdown, served }
    }

    /// As SIGKILL would: nothing is finished.
    pub(crate) fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// As SIGTERM would; how serving ended.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        assert!(self.shutdown.finish(SOON).await, "tasks are left");
        let ended = tokio::time::timeout(SOON, &mut self.served).await.unwrap().unwrap();
        self.runtime.take().unwrap().shutdown_background();
        ended
    }

    /// How serving ends without anybody asking it to.
    pub(crate) async fn fails(mut self) -> Error {
        let ended = tokio::time::timeout(SOON, &mut self.served).await.expect("it gives up").unwrap();
        self.runtime.take().unwrap().shutdown_background();
        ended.expect_err("it cannot serve")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) struct World {
    pub(crate) bus: Bus,
    pub(crate) users: Bucket<User>,
    pub(crate) credentials: Bucket<Credentials>,
    others: Shutdown,
    pub(crate) folder: TempDir,
    pub(crate) nats: NatsServer,
}

impl World {
    /// With `users` and `fleet`, not yet with `keys`.
    pub(crate) async fn start() -> Self {
        let nats = NatsServer::start().await;
        let others = Shutdown::new();
        let bus = connect(&nats, "test").await;
        tokio::spawn(users::serve(connect(&nats, "users").await, others.clone()));
        tokio::spawn(fleet::serve(connect(&nats, "fleet").await, fleet::Config::default(), others.clone()));
        eventually("users answers", SOON, async || bus.call(List::default()).await).await;
        eventually("fleet answers", SOON, async || bus.call(ListServers::default()).await).await;
        let (users, credentials) = (bus.own().await.unwrap(), bus.own().await.unwrap());
        Self { bus, users, credentials, others, folder: tempfile::tempdir().unwrap(), nats }
    }

    /// With all three.
    pub(crate) async fn serving() -> (Self, Process) {
        let world = Self::start().await;
        let keys = world.serve().await;
        (world, keys)
    }

    pub(crate) fn master_key_file(&self) -> PathBuf {
        self.folder.path().join("master.key")
    }

    pub(crate) fn config(&self) -> Config {
        Config::new(self.master_key_file()).creating()
    }

    pub(crate) fn master(&self) -> MasterKey {
        MasterKey::load(&self.master_key_file()).unwrap()
    }

    /// Starts `keys`; returns when it answers.
    pub(crate) async fn serve(&self) -> Process {
        let keys = Process::start(self.nats.url(), self.config());
        let soon = Duration::from_millis(200);
        eventually("keys answers", SOON, async || self.bus.call_within(Status {}, soon).await).await;
        keys
    }

    pub(crate) async fn status(&self) -> KeysStatus {
        self.bus.call(Status {}).await.unwrap()
    }

    /// What stands in a bucket, by key.
    pub(crate) async fn all<S: State>(&self, bucket: &Bucket<S>) -> BTreeMap<String, S> {
        let mut watch = bucket.watch().await.unwrap();
        let mut found = BTreeMap::new();
        while !watch.is_current() {
            for change in watch.next().await {
                if let Some(value) = change.entry.value {
                    found.insert(change.key, value);
                }
            }
        }
        found
    }

    /// Waits until every user has credentials and nobody else does; returns them.
    pub(crate) async fn settled(&self) -> BTreeMap<String, Credentials> {
        eventually("users and credentials are the same", SOON, async || {
            let (users, held) = (self.all(&self.users).await, self.all(&self.credentials).await);
            let who = |name: &String| (users.get(name).map(|u| u.id), held.get(name).map(|c| c.user_id));
            let names: BTreeSet<_> = users.keys().chain(held.keys()).collect();
            let differs = names.into_iter().find(|name| who(name).0 != who(name).1);
            let Some(name) = differs else { return Ok(held) };
            let counted = self.bus.call(Status {}).await.map(|status| status.users);
            let counts = format!("{} users, {} with credentials", users.len(), held.len());
            Err(format!("{name}: {:?}; {counts}, as keys counts: {counted:?}", who(name)))
        })
        .await
    }

    pub(crate) async fn create(&self, name: &str) -> User {
        self.bus.call(named(name)).await.unwrap()
    }

    pub(crate) async fn create_many(&self, prefix: &str, count: usize) {
        let users = (0..count).map(|n| named(&format!("{prefix}{n:05}"))).collect();
        self.bus.call(CreateMany { users, batch: None }).await.unwrap();
    }

    /// A user's credentials once they are there.
    pub(crate) async fn issued(&self, user: &User) -> Credentials {
        eventually("credentials", SOON, async || {
            let entry = self.credentials.get(user.name.as_str()).await.unwrap();
            entry.and_then(|entry| entry.value).filter(|held| held.user_id == user.id)
        })
        .await
    }

    pub(crate) async fn announce(&self, node: &str, curve_key: &str) -> NodeName {
        let announced = Announce {
            node: node.parse().unwrap(),
            address: PublicAddress { host: "vpn.example.org".to_owned(), source: AddressSource::Given },
            curve_key: curve_key.to_owned(),
            backend: "process".to_owned(),
            backend_version: "1".to_owned(),
            cpus: 2,
            version: "0.1.0".to_owned(),
        };
        self.bus.call(announced.clone()).await.unwrap();
        announced.node
    }

    pub(crate) async fn server(&self, name: &str, protocol: Protocol, port: u64, node: &str) -> Server {
        let reality = (protocol == Protocol::VlessReality).then(|| Reality {
            dest: "www.example.org:443".parse().unwrap(),
            server_names: vec!["www.example.org".to_owned()],
        });
        let create = CreateServer {
            name: name.parse().unwrap(),
            protocol,
            port: port.try_into().unwrap(),
            node: Some(node.parse().unwrap()),
            image: None,
            reality,
            resources: None,
            allow_private: Vec::new(),
        };
        let ServerReply { server, .. } = self.bus.call(create).await.unwrap();
        server
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.others.begin();
    }
}

pub(crate) async fn connect(nats: &NatsServer, name: &str) -> Bus {
    Bus::connect(&bus::Config::new(nats.url(), name)).await.unwrap()
}

pub(crate) fn named(name: &str) -> Create {
    Create::named(name.parse().unwrap())
}

/// No WireGuard address is two users'.
pub(crate) fn assert_apart(held: &BTreeMap<String, Credentials>) {
    let mut owners = BTreeMap::new();
    for (name, credentials) in held {
        if let Some(other) = owners.insert(credentials.wireguard.address.place(), name) {
            panic!("{name} and {other} have {}", credentials.wireguard.address.v4());
        }
        assert_eq!(credentials.user.as_str(), name);
        assert!(credentials.issued_at <= Timestamp::now());
    }
}
