//! Kills in the midst of creations.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use contract::users::Delete;
use futures::{StreamExt, stream};
use testkit::wait::eventually;

use crate::world::{SOON, World, assert_apart, named};

/// Who asks in the moment of a kill waits so long for an answer that does not come.
const PATIENCE: Duration = Duration::from_secs(3);

/// Creates that many users one by one and deletes every tenth again; 16 are under way together.
async fn come_and_go(bus: bus::Bus, count: usize, made: Arc<AtomicUsize>) {
    stream::iter(0..count)
        .for_each_concurrent(16, |n| {
            let (bus, made) = (bus.clone(), made.clone());
            async move {
                let create = named(&format!("u{n:04}"));
                let name = create.name.clone();
                let mut created = bus.call_within(create.clone(), PATIENCE).await;
                while created.is_err() {
                    // The answer may have been lost with the bus while the user was made.
                    created = bus.call_within(contract::users::Get { name: name.clone() }, PATIENCE).await;
                    if created.is_err() {
                        created = bus.call_within(create.clone(), PATIENCE).await;
                    }
                }
                if n % 10 == 0 {
                    while bus
                        .call_within(Delete { name: name.clone() }, PATIENCE)
                        .await
                        .is_err_and(|error| error.code != contract::Code::USERS_NOT_FOUND)
                    {
                    }
                }
                made.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_leave_nobody_without_credentials_and_no_address_twice() {
    let (world, mut keys) = World::serving().await;
    let made = Arc::new(AtomicUsize::new(0));
    let creating = tokio::spawn(come_and_go(world.bus.clone(), 1_000, made.clone()));
    for kill in 1..=8 {
        eventually("users come", SOON, async || made.load(Ordering::SeqCst) >= kill * 110).await;
        keys.kill();
        keys = world.serve().await;
    }
    creating.await.unwrap();
    let held = world.settled().await;
    assert_eq!(held.len(), 900);
    assert_apart(&held);
    assert_eq!(world.status().await.users, 900);

    // And a batch that is under way at the kill.
    world.create_many("b", 1_000).await;
    keys.kill();
    let keys = world.serve().await;
    let held = world.settled().await;
    assert_eq!(held.len(), 1_900);
    assert_apart(&held);

    // Who has credentials keeps them across a restart.
    keys.stop().await.unwrap();
    let _keys = world.serve().await;
    world.issued(&world.create("last").await).await;
    let mut after = world.settled().await;
    after.remove("last");
    assert_eq!(after, held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_bus_loses_nobody() {
    let (mut world, _keys) = World::serving().await;
    let made = Arc::new(AtomicUsize::new(0));
    let creating = tokio::spawn(come_and_go(world.bus.clone(), 400, made.clone()));
    for kill in 1..=3 {
        eventually("users come", SOON, async || made.load(Ordering::SeqCst) >= kill * 100).await;
        world.nats.kill();
        world.nats.restart().await;
    }
    creating.await.unwrap();
    let held = world.settled().await;
    assert_eq!(held.len(), 360);
    assert_apart(&held);
}
