//! Usage from the bus, on a real nats-server: each message counts once, whatever happens to the service or the bus.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bus::{Bus, Shutdown};
use contract::{
    Code, Error,
    fleet::ServerId,
    stats::{By, GetUsage, Kind, Top},
    usage::{ServerUsage, Traffic, Usage, UsageV1, UserUsage},
    users::{Event, User, UserId},
};
use stats::Config;
use tempfile::TempDir;
use testkit::{nats::NatsServer, wait::eventually};
use tokio::{runtime, task::JoinHandle};
use uuid::Uuid;

/// Long enough for two cores that also compile.
const SOON: Duration = Duration::from_secs(30);

/// `stats` with threads of its own, so that all of it can end between two steps.
struct Process {
    runtime: Option<runtime::Runtime>,
    shutdown: Shutdown,
    served: JoinHandle<Result<(), Error>>,
}

impl Process {
    fn start(nats: &NatsServer, state_dir: &Path) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (shutdown, url) = (Shutdown::new(), nats.url());
        let (serving, config) = (shutdown.clone(), Config { state_dir: state_dir.to_owned() });
        let served = runtime.spawn(async move {
            let bus = Bus::connect(&bus::Config::new(url, "stats")).await?;
            stats::serve(bus, config, serving).await
        });
        Self { runtime: Some(runtime), shutdown, served }
    }

    /// As SIGKILL would: nothing is finished. The file is free when this returns.
    fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        std::thread::spawn(move || runtime.shutdown_timeout(SOON)).join().unwrap();
    }

    async fn stop(mut self) {
        assert!(self.shutdown.finish(SOON).await, "tasks are left");
        tokio::time::timeout(SOON, &mut self.served).await.unwrap().unwrap().unwrap();
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A bus with users on it.
struct World {
    nats: NatsServer,
    bus: Bus,
    users: Vec<User>,
    home: TempDir,
}

impl World {
    async fn start() -> Self {
        let nats = NatsServer::start().await;
        let bus = Bus::connect(&bus::Config::new(nats.url(), "test")).await.unwrap();
        let bucket: bus::Bucket<User> = bus.own().await.unwrap();
        bus.own_stream::<Usage>().await.unwrap();
        let mut users = Vec::new();
        for name in ["alice", "bob", "carol"] {
            let create = contract::users::Create::named(name.parse().unwrap());
            let user = User::new(create, UserId(Uuid::now_v7()), contract::Timestamp::now()).unwrap();
            bucket.insert(&user, Event::Created).await.unwrap();
            users.push(user);
        }
        Self { nats, bus, users, home: tempfile::tempdir().unwrap() }
    }

    fn stats(&self) -> Process {
        Process::start(&self.nats, self.home.path())
    }

    /// What everybody used on a node, in one message.
    fn usage(&self, node: &str, boot: u128, sequence: u64, traffic: Traffic) -> Usage {
        let users = self.users.iter().map(|user| UserUsage { user: user.id, traffic }).collect();
        let server =
            ServerUsage { server: "s1".parse().unwrap(), server_id: ServerId(Uuid::from_u128(7)), users };
        let now = contract::Timestamp::now().as_millisecond();
        Usage::V1(UsageV1 {
            node: node.parse().unwrap(),
            boot: Uuid::from_u128(boot),
            sequence,
            from_millis: now - 1_000,
            until_millis: now,
            servers: vec![server],
        })
    }

    async fn total(&self, of: GetUsage) -> Result<Traffic, Error> {
        Ok(self.bus.call_within(of, Duration::from_secs(2)).await?.traffic)
    }

    async fn has(&self, of: GetUsage, traffic: Traffic, what: &str) {
        eventually(what, SOON, async || match self.total(of.clone()).await {
            Ok(total) if total == traffic => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
}

fn alice() -> GetUsage {
    GetUsage::User("alice".parse().unwrap())
}

fn times(traffic: Traffic, times: u64) -> Traffic {
    Traffic { up: traffic.up * times, down: traffic.down * times }
}

const ONE: Traffic = Traffic { up: 3, down: 1_000 };

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_service_and_the_bus_neither_lose_nor_double() {
    const MESSAGES: u64 = 2_000;
    let mut world = World::start().await;
    let mut stats = world.stats();
    let sent = Arc::new(AtomicU64::new(0));
    let sending = tokio::spawn({
        let (bus, sent) = (world.bus.clone(), sent.clone());
        let messages: Vec<_> = (1..=MESSAGES).map(|number| world.usage("n1", 1, number, ONE)).collect();
        async move {
            for message in messages {
                // As a node does: until it is stored, and now and then once more.
                while bus.publish(&message).await.is_err() {}
                if sent.fetch_add(1, Ordering::SeqCst) % 7 == 0 {
                    let _ = bus.publish(&message).await;
                }
            }
        }
    });
    for kill in 1..=6 {
        let due = async || sent.load(Ordering::SeqCst) >= kill * 250;
        eventually("usage comes", SOON, due).await;
        if kill % 3 == 0 {
            world.nats.kill();
            world.nats.restart().await;
        } else {
            stats.kill();
            stats = world.stats();
        }
    }
    sending.await.unwrap();
    world.has(alice(), times(ONE, MESSAGES), "each message is counted once").await;
    let three = times(ONE, 3 * MESSAGES);
    assert_eq!(world.total(GetUsage::Server("s1".parse().unwrap())).await.unwrap(), three);
    assert_eq!(world.total(GetUsage::Node("n1".parse().unwrap())).await.unwrap(), three);

    // And what was kept is there at the next start.
    stats.stop().await;
    let _stats = world.stats();
    world.has(alice(), times(ONE, MESSAGES), "it is the same after a restart").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_counted_is_put_aside_and_the_rest_is_counted() {
    let world = World::start().await;
    let _stats = world.stats();
    world.bus.publish(&world.usage("n1", 1, 1, ONE)).await.unwrap();
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let raw = async |subject: &str, body: Vec<u8>| {
        client.request(subject.to_owned(), body.into()).await.unwrap();
    };
    let good = postcard::to_allocvec(&world.usage("n1", 1, 2, ONE)).unwrap();
    let mut future = good.clone();
    future[0] = 1;
    raw("vpn.usage.n1", b"garbage".to_vec()).await;
    raw("vpn.usage.n1", future).await;
    raw("vpn.usage.n2", good.clone()).await;
    // A replay, which has no id that the bus would know it by.
    raw("vpn.usage.n1", postcard::to_allocvec(&world.usage("n1", 1, 1, ONE)).unwrap()).await;
    raw("vpn.usage.n1", good).await;
    // A node whose disk was lost counts from one again.
    world.bus.publish(&world.usage("n1", 2, 1, ONE)).await.unwrap();
    world.has(alice(), times(ONE, 3), "what can be counted is").await;

    let js = async_nats::jetstream::new(client);
    let dead = async || {
        let info = js.get_stream("vpn_dead").await.unwrap().info().await.unwrap().state.messages;
        if info == 3 { Ok(()) } else { Err(info) }
    };
    eventually("garbage, the future and a node that is another one are put aside", SOON, dead).await;
    let missing = world.total(GetUsage::Node("n2".parse().unwrap())).await.unwrap_err();
    assert_eq!(missing.code, Code::STATS_NOT_FOUND);
    let nobody = world.total(GetUsage::User("nobody".parse().unwrap())).await.unwrap_err();
    assert_eq!(nobody.code, Code::USERS_NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_are_those_who_used_most() {
    let world = World::start().await;
    let _stats = world.stats();
    let Usage::V1(mut usage) = world.usage("n1", 1, 1, ONE);
    for (nth, entry) in usage.servers[0].users.iter_mut().enumerate() {
        entry.traffic = times(ONE, nth as u64 + 1);
    }
    usage.servers[0].users.push(UserUsage { user: UserId(Uuid::from_u128(9)), traffic: times(ONE, 9) });
    world.bus.publish(&Usage::V1(usage)).await.unwrap();
    let top = Top { of: Kind::Users, by: By::Total, limit: Some(2), offset: 1 };
    let ranking = eventually("all are counted", SOON, async || {
        let ranking = world.bus.call(top.clone()).await?;
        if ranking.total == 4 { Ok(ranking) } else { Err(Error::new(Code::INTERNAL, format!("{ranking:?}"))) }
    })
    .await;
    let names: Vec<_> = ranking.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["carol", "bob"], "behind the one who is gone");
    assert_eq!(ranking.rows[0].total.traffic, times(ONE, 3));
    assert!(ranking.rows[0].total.rate.down > 0, "it was a moment ago");
    let first = world.bus.call(Top { offset: 0, ..top }).await.unwrap().rows.remove(0);
    assert_eq!((first.gone, first.name), (true, Uuid::from_u128(9).to_string()));
}
