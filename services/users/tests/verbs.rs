//! The verbs of `users` on a real nats-server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use bus::{Bus, Config, Shutdown};
use contract::{
    Code, Timestamp, UserName,
    users::{Create, CreateMany, Delete, Get, List, Resume, StateKind, Suspend, Update, UserState},
};
use testkit::nats::NatsServer;

struct House {
    server: NatsServer,
    bus: Bus,
    shutdown: Shutdown,
}

impl House {
    async fn open() -> Self {
        let server = NatsServer::start().await;
        let (bus, shutdown) = Self::serve(&server).await;
        Self { server, bus, shutdown }
    }

    async fn serve(server: &NatsServer) -> (Bus, Shutdown) {
        let shutdown = Shutdown::new();
        let own = Bus::connect(&Config::new(server.url(), "users")).await.unwrap();
        let serving = shutdown.clone();
        tokio::spawn(async move { users::serve(own, serving).await.unwrap() });
        let bus = Bus::connect(&Config::new(server.url(), "test")).await.unwrap();
        let answers = async || bus.call(List::default()).await.is_ok();
        testkit::wait::eventually("users answers", Duration::from_secs(5), answers).await;
        (bus, shutdown)
    }

    async fn restart(&mut self) {
        assert!(self.shutdown.finish(Duration::from_secs(2)).await, "all tasks end");
        (self.bus, self.shutdown) = Self::serve(&self.server).await;
    }
}

fn named(name: &str) -> Create {
    Create::named(name.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_lives_and_its_name_is_used_again() {
    let mut house = House::open().await;
    let alice = house.bus.call(named("alice")).await.unwrap();
    assert_eq!(house.bus.call(named("alice")).await.unwrap_err().code, Code::USERS_NAME_TAKEN);

    let name = alice.name.clone();
    let reason = Some("unpaid".parse().unwrap());
    let suspended = house.bus.call(Suspend { name: name.clone(), reason }).await.unwrap();
    assert!(matches!(suspended.state, UserState::Suspended { .. }));
    let list = List { state: Some(StateKind::Suspended), ..List::default() };
    house.restart().await;
    assert_eq!(house.bus.call(list).await.unwrap().users, [suspended], "survives a restart");

    assert!(house.bus.call(Resume { name: name.clone() }).await.unwrap().is_active());
    house.bus.call(Delete { name: name.clone() }).await.unwrap();
    assert_eq!(house.bus.call(Get { name: name.clone() }).await.unwrap_err().code, Code::USERS_NOT_FOUND);
    assert_eq!(house.bus.call(Delete { name: name.clone() }).await.unwrap_err().code, Code::USERS_NOT_FOUND);
    let again = house.bus.call(named("alice")).await.unwrap();
    assert_ne!(again.id, alice.id, "another user of the same name");
}

/// After a restart of the bus the view that lists are made of follows again a moment after changes are taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_what_was_answered() {
    let mut house = House::open().await;
    let alice: UserName = "alice".parse().unwrap();
    for round in 0..5 {
        let created = house.bus.call(named("alice")).await.unwrap();
        assert_eq!(house.bus.call(List::default()).await.unwrap().users, [created], "created, round {round}");
        house.server.kill();
        house.server.restart().await;
        let suspend = || Suspend { name: alice.clone(), reason: None };
        let suspended = loop {
            // Who asks in the moment of the kill gets no answer.
            if let Ok(suspended) = house.bus.call_within(suspend(), Duration::from_secs(1)).await {
                break suspended;
            }
        };
        assert_eq!(
            house.bus.call(List::default()).await.unwrap().users,
            [suspended],
            "suspended, round {round}"
        );
        house.bus.call(Delete { name: alice.clone() }).await.unwrap();
        assert_eq!(house.bus.call(List::default()).await.unwrap().users, [], "deleted, round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_gets_the_name() {
    let house = House::open().await;
    let tries = (0..32).map(|_| house.bus.call(named("wanted")));
    let results = futures::future::join_all(tries).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        results
            .iter()
            .flat_map(|result| result.as_ref().err())
            .all(|error| error.code == Code::USERS_NAME_TAKEN)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_whole_and_can_be_resumed() {
    let house = House::open().await;
    let many = |range: std::ops::Range<usize>| range.map(|n| named(&format!("u{n:05}"))).collect::<Vec<_>>();
    house.bus.call(named("u01500")).await.unwrap();

    let stopped = house.bus.call(CreateMany { users: many(0..2_000), batch: None }).await.unwrap_err();
    assert_eq!(stopped.code, Code::USERS_NAME_TAKEN);
    assert_eq!(
        house.bus.call(List::default()).await.unwrap().total,
        1_001,
        "the first thousand, and nothing of the second"
    );

    let batch = stopped.message.split("batch ").nth(1).unwrap()[..36].parse().unwrap();
    house.bus.call(Delete { name: "u01500".parse().unwrap() }).await.unwrap();
    let done = house.bus.call(CreateMany { users: many(0..2_000), batch: Some(batch) }).await.unwrap();
    assert_eq!((done.batch, done.created), (batch, 2_000));
    assert_eq!(house.bus.call(List::default()).await.unwrap().total, 2_000);

    let twice = CreateMany { users: vec![named("x"), named("x")], batch: None };
    assert_eq!(house.bus.call(twice).await.unwrap_err().code, Code::USERS_BATCH_INVALID);
    let none = CreateMany { users: vec![], batch: None };
    assert_eq!(house.bus.call(none).await.unwrap_err().code, Code::USERS_BATCH_INVALID);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_runs_out_and_can_be_given_again() {
    let house = House::open().await;
    let soon = Timestamp::now() + Duration::from_millis(300);
    let guest = house.bus.call(Create { expires_at: Some(soon), ..named("guest") }).await.unwrap();
    let name = guest.name.clone();
    let expired = async || {
        let user = house.bus.call(Get { name: name.clone() }).await.unwrap();
        matches!(user.state, UserState::Expired { .. })
    };
    testkit::wait::eventually("the account ends", Duration::from_secs(3), expired).await;

    let update = |expires_at| Update {
        name: name.clone(),
        tags: None,
        note: None,
        quota: None,
        quota_reset: None,
        expires_at: Some(expires_at),
    };
    let past = house.bus.call(update(Some(Timestamp::UNIX_EPOCH))).await.unwrap_err();
    assert_eq!(past.code, Code::USERS_EXPIRY_PAST);
    assert!(house.bus.call(update(None)).await.unwrap().is_active());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_cannot_be_ended_keeps_no_other_from_its_end() {
    let house = House::open().await;
    let soon = |millis| Some(Timestamp::now() + Duration::from_millis(millis));
    house.bus.call(Create { expires_at: soon(1_000), ..named("broken") }).await.unwrap();
    // What nobody can read, nobody can change.
    let client = async_nats::connect(house.server.url()).await.unwrap();
    client.request("$KV.vpn_users.broken", "not json".into()).await.unwrap();
    // Its time is over, and it is the first in turn.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let guest = house.bus.call(Create { expires_at: soon(300), ..named("guest") }).await.unwrap();
    testkit::wait::eventually("the other account ends", Duration::from_secs(10), async || {
        let user = house.bus.call(Get { name: guest.name.clone() }).await.unwrap();
        matches!(user.state, UserState::Expired { .. })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_bus_is_killed() {
    let mut house = House::open().await;
    let bus = house.bus.clone();
    let creating = tokio::spawn(async move {
        let mut made = Vec::new();
        for n in 0..300 {
            if bus.call_within(named(&format!("k{n}")), Duration::from_secs(5)).await.is_ok() {
                made.push(format!("k{n}"));
            }
        }
        made
    });
    let started = async || house.bus.call(List::default()).await.is_ok_and(|page| page.total > 20);
    testkit::wait::eventually("users are being created", Duration::from_secs(10), started).await;
    house.server.kill();
    house.server.restart().await;
    let made = creating.await.unwrap();
    assert!(made.len() > 200, "creation goes on after the bus is back: {}", made.len());
    for name in made {
        house.bus.call(Get { name: name.parse().unwrap() }).await.unwrap();
    }
}
