//! The meter with an engine whose counters stand where a test wants them. A run is a process: this one, or
//! a child.

use std::process::{Child, Command};

use tempfile::TempDir;

use super::*;
use crate::engine::fake::Fake;

struct World {
    home: TempDir,
    engine: Fake,
    meter: Meter,
    server: ServerId,
    user: UserId,
}

impl World {
    async fn serving(started: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (meter, user) = (meter(&home), UserId(Uuid::now_v7()));
        let world = Self { home, engine: Fake::default(), meter, server: ServerId(Uuid::from_u128(1)), user };
        world.serves(std::process::id(), started).await;
        world
    }

    async fn serves(&self, pid: u32, started: bool) {
        let server = (self.server, &"s1".parse().unwrap());
        self.meter.serves(server, Arc::new(self.engine.clone()), pid, started).await;
    }

    fn reading(&self, down: u64) -> Reading {
        let traffic = Traffic { up: 0, down };
        Reading { entry: "e".to_owned(), user: Some(self.user), traffic, falls: false, ends: false }
    }

    async fn reads(&self, readings: Vec<Reading>) {
        self.engine.counts(readings);
        self.meter.state.lock().await.serving.values_mut().for_each(|one| one.not_before = Instant::now());
        self.meter.read_and_keep().await.unwrap();
    }

    /// As SIGKILL would end the agent, and the next one begin; the engine goes on.
    async fn killed(self) -> Self {
        let Self { home, engine, meter: old, server, user } = self;
        drop(old);
        let world = Self { meter: meter(&home), home, engine, server, user };
        world.serves(std::process::id(), false).await;
        world
    }

    /// What the messages say that wait, and how many they are.
    async fn told(&self) -> (u64, usize) {
        let journal = self.meter.state.lock().await.journal.clone().unwrap();
        let (mut bytes, mut last, mut count) = (0, 0, 0);
        while let Some((sequence, Usage::V1(usage))) = journal.next_waiting(last).unwrap() {
            assert_eq!((usage.sequence, usage.boot), (sequence, journal.boot));
            let entries = usage.servers.iter().flat_map(|server| &server.users);
            bytes += entries.map(|entry| entry.traffic.sum()).sum::<u64>();
            (last, count) = (sequence, count + 1);
        }
        (bytes, count)
    }
}

fn meter(home: &TempDir) -> Meter {
    Meter::new("n1".parse().unwrap(), home.path())
}

/// A process that runs until it is dropped.
struct Other(Child);

impl Other {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_agent_that_is_killed_goes_on_where_it_was() {
    let world = World::serving(true).await;
    world.reads(vec![world.reading(100)]).await;
    world.reads(vec![world.reading(100)]).await;
    assert_eq!(world.told().await, (100, 1), "nothing new is nothing to tell");
    let world = world.killed().await;
    world.reads(vec![world.reading(150)]).await;
    assert_eq!(world.told().await, (150, 2));

    // Killed after it read, before it kept.
    world.engine.counts(vec![world.reading(500)]);
    world.meter.read(world.server).await;
    let world = world.killed().await;
    world.reads(vec![world.reading(700)]).await;
    assert_eq!(world.told().await, (700, 3));
}

#[tokio::test]
async fn an_engine_that_nobody_counted_before_counts_from_where_it_is() {
    let world = World::serving(false).await;
    world.reads(vec![world.reading(1_000)]).await;
    world.reads(vec![world.reading(1_001)]).await;
    assert_eq!(world.told().await, (1, 1));
}

#[tokio::test]
async fn another_run_counts_from_nothing() {
    let world = World::serving(true).await;
    world.reads(vec![world.reading(100)]).await;
    let other = Other::start();
    world.serves(other.0.id(), true).await;
    world.reads(vec![world.reading(30)]).await;
    assert_eq!(world.told().await.0, 130);
    // It ends, and another one answers in its place before anybody knows.
    drop(other);
    world.reads(vec![world.reading(90)]).await;
    assert_eq!(world.told().await.0, 130, "this is of a run that is not known yet");
    world.serves(std::process::id(), true).await;
    world.reads(vec![world.reading(90)]).await;
    assert_eq!(world.told().await.0, 220);
}

#[tokio::test]
async fn counters_fall_end_and_find_their_owner() {
    let world = World::serving(true).await;
    world.reads(vec![world.reading(100)]).await;
    world.reads(vec![world.reading(60)]).await;
    assert_eq!(world.told().await.0, 100, "an old reading adds nothing");
    world.reads(vec![Reading { falls: true, ..world.reading(60) }]).await;
    assert_eq!(world.told().await.0, 160, "one that was begun anew adds all of it");
    world.reads(vec![Reading { ends: true, ..world.reading(70) }, world.reading(65)]).await;
    assert_eq!(world.told().await.0, 235, "what ended counts to its end, and what follows from nothing");

    let nobodys = |down| Reading { entry: "f".to_owned(), user: None, ..world.reading(down) };
    world.reads(vec![nobodys(10)]).await;
    assert_eq!(world.told().await.0, 235);
    world.reads(vec![Reading { user: Some(world.user), ..nobodys(12) }]).await;
    assert_eq!(world.told().await.0, 247);
    world.reads(vec![nobodys(15)]).await;
    assert_eq!(world.told().await.0, 250, "whose it was is remembered");
}

#[tokio::test]
async fn what_waits_is_bounded_and_nothing_is_lost() {
    let world = World::serving(true).await;
    let reads = WAITING_MAX as u64 + 50;
    for read in 1..=reads {
        // Users who come one after the other.
        let newcomer = UserId(Uuid::from_u128(read.into()));
        let other = Reading { entry: format!("e{read}"), user: Some(newcomer), ..world.reading(1) };
        world.reads(vec![world.reading(10 * read), other]).await;
    }
    assert_eq!(world.told().await, (11 * reads, WAITING_MAX));
}
