//! What 10,000 users in bulk cost, credentials included, against the bare storing of the same messages.
//!
//! `cargo bench -p keys --bench bulk [rounds]` prints one row of JSON a round: milliseconds until `users` has
//! replied, until everybody has credentials, and of the floor, which is the same users and credentials in the same
//! atomic batches on a nats-server of their own, one after the other.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people who measure"
)]

use std::time::{Duration, Instant};

use bus::{Bucket, Bus, Shutdown, Write};
use contract::{
    State,
    keys::{Credentials, CredentialsEvent, Status},
    users::{Create, CreateMany, Event, List, User},
};
use testkit::{nats::NatsServer, wait::eventually};

const USERS: usize = 10_000;
const SOON: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(5);
    for _ in 0..rounds {
        round().await;
    }
}

async fn round() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    tokio::spawn(users::serve(connect(&nats, "users").await, shutdown.clone()));
    let config = keys::Config::new(folder.path().join("master.key")).creating();
    tokio::spawn(keys::serve(connect(&nats, "keys").await, config, shutdown.clone()));
    let bus = connect(&nats, "bench").await;
    eventually("users answers", SOON, async || bus.call(List::default()).await).await;
    eventually("keys answers", SOON, async || bus.call(Status {}).await).await;

    let credentials: Bucket<Credentials> = bus.own().await.unwrap();
    let mut watch = credentials.watch().await.unwrap();
    let users = (0..USERS).map(|n| Create::named(format!("user-{n:05}").parse().unwrap())).collect();
    let started = Instant::now();
    let reply = bus.call(CreateMany { users, batch: None });
    let replied = async {
        reply.await.unwrap();
        started.elapsed()
    };
    let issued = async {
        let mut issued = Vec::with_capacity(USERS);
        while issued.len() < USERS {
            issued.extend(watch.next().await.into_iter().filter_map(|change| change.entry.value));
        }
        (started.elapsed(), issued)
    };
    let (replied, (done, issued)) = tokio::join!(replied, issued);
    let users = all(&bus.own().await.unwrap()).await;
    shutdown.finish(Duration::from_secs(5)).await;

    let bare = NatsServer::start().await;
    let bus = connect(&bare, "floor").await;
    let (of_users, of_credentials) = (bus.own().await.unwrap(), bus.own().await.unwrap());
    let started = Instant::now();
    store(&of_users, users, Event::Created).await;
    store(&of_credentials, issued, CredentialsEvent::Issued).await;
    let floor = started.elapsed();
    println!(
        "{{\"name\":\"10,000 users in bulk with credentials\",\"replied\":{},\"ours\":{},\"floor\":{},\"unit\":\"ms\"}}",
        replied.as_millis(),
        done.as_millis(),
        floor.as_millis()
    );
}

async fn all(bucket: &Bucket<User>) -> Vec<User> {
    let mut watch = bucket.watch().await.unwrap();
    let mut users = Vec::with_capacity(USERS);
    while !watch.is_current() {
        users.extend(watch.next().await.into_iter().filter_map(|change| change.entry.value));
    }
    users
}

async fn store<S: State>(bucket: &Bucket<S>, values: Vec<S>, event: S::Event) {
    let write = |value: &S| Write { key: value.key(), value: Some(value.clone()), event, expected: 0 };
    for chunk in values.chunks(1_000) {
        bucket.write_all(&chunk.iter().map(write).collect::<Vec<_>>()).await.unwrap();
    }
}

async fn connect(nats: &NatsServer, name: &str) -> Bus {
    Bus::connect(&bus::Config::new(nats.url(), name)).await.unwrap()
}
