//! A bus, replicas of the service, and what tests ask of them.

use std::time::Duration;

use bus::{Bus, Shutdown};
use contract::{
    Error, Port, Protocol,
    fleet::{
        AddressSource, Announce, CreateServer, ListServers, PublicAddress, Server, ServerReply, UpdateServer,
    },
};
use fleet::Config;
use testkit::{nats::NatsServer, wait::eventually};

/// Long enough for two cores that also compile.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// One running replica.
pub(crate) struct Replica {
    shutdown: Shutdown,
    serving: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Replica {
    /// Starts one; returns when it answers.
    pub(crate) async fn start(url: &str, config: Config) -> Self {
        let bus = Bus::connect(&bus::Config::new(url, "fleet")).await.unwrap();
        let shutdown = Shutdown::new();
        let serving = tokio::spawn(fleet::serve(bus.clone(), config, shutdown.clone()));
        eventually("fleet answers", SOON, async || bus.call(ListServers::default()).await).await;
        Self { shutdown, serving }
    }

    /// Ends it; all of its tasks have ended then.
    pub(crate) async fn stop(self) {
        assert!(self.shutdown.finish(SOON).await, "tasks were left");
        self.serving.await.unwrap().unwrap();
    }
}

/// A bus with one replica, and a client.
pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) replica: Replica,
    pub(crate) bus: Bus,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let nats = NatsServer::start().await;
        let replica = Replica::start(&nats.url(), config).await;
        let bus = client(&nats).await;
        Self { nats, replica, bus }
    }

    /// With nodes of these names that announced themselves once.
    pub(crate) async fn with_nodes(names: &[&str]) -> Self {
        let world = Self::start().await;
        for name in names {
            world.bus.call(announcement(name)).await.unwrap();
        }
        world
    }

    pub(crate) async fn create(&self, request: CreateServer) -> Result<Server, Error> {
        self.bus.call(request).await.map(|ServerReply { server, .. }| server)
    }

    pub(crate) async fn servers(&self) -> Vec<Server> {
        self.bus.call(ListServers::default()).await.unwrap().servers
    }
}

/// Another connection.
pub(crate) async fn client(nats: &NatsServer) -> Bus {
    Bus::connect(&bus::Config::new(nats.url(), "test")).await.unwrap()
}

pub(crate) fn port(number: u64) -> Port {
    Port::try_from(number).unwrap()
}

pub(crate) fn announcement(node: &str) -> Announce {
    Announce {
        node: node.parse().unwrap(),
        address: PublicAddress { host: "198.51.100.7".to_owned(), source: AddressSource::Given },
        curve_key: "XABCDEF234567".to_owned(),
        backend: "process".to_owned(),
        backend_version: "1".to_owned(),
        cpus: 2,
        version: "0.1.0".to_owned(),
    }
}

/// A request with no more than it needs.
pub(crate) fn create(name: &str, protocol: Protocol, number: u64) -> CreateServer {
    CreateServer {
        name: name.parse().unwrap(),
        protocol,
        port: port(number),
        node: None,
        image: None,
        reality: None,
        resources: None,
        allow_private: Vec::new(),
    }
}

/// A request that changes nothing yet.
pub(crate) fn update(name: &str) -> UpdateServer {
    UpdateServer {
        name: name.parse().unwrap(),
        port: None,
        image: None,
        reality: None,
        resources: None,
        allow_private: None,
    }
}

/// What has happened in a bucket so far: key and event, in order.
pub(crate) async fn events(nats: &NatsServer, bucket: &str) -> Vec<(String, String)> {
    let client = async_nats::connect(nats.url()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream(format!("KV_{bucket}")).await.unwrap();
    let mut events = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let key = message.subject.rsplit('.').next().unwrap().to_owned();
        events.push((key, message.headers.get("Vpn-Event").unwrap().to_string()));
    }
    events
}
