//! Keys that are made ahead: what the nodes are told is nobody's, or that of a user whose credentials stand.

use std::collections::BTreeSet;

use bus::Bucket;
use contract::{
    Protocol, UserName,
    keys::{Credentials, Prekeys, Rotate, Sealed},
    users::Delete,
};
use futures::{StreamExt as _, stream};
use testkit::wait::eventually;

use crate::world::{SOON, World};

/// What the nodes are told once that is something else.
async fn told_anew(world: &World, bucket: &Bucket<Prekeys>, before: u64) -> Vec<Vec<u8>> {
    eventually("the nodes are told anew", SOON, async || {
        let entry = bucket.get(Prekeys::PROTOCOL.as_str()).await.unwrap();
        entry.filter(|entry| entry.revision > before)
    })
    .await;
    told(world, bucket).await
}

/// What the nodes are told, in its order.
async fn told(world: &World, bucket: &Bucket<Prekeys>) -> Vec<Vec<u8>> {
    let entry = bucket.get(Prekeys::PROTOCOL.as_str()).await.unwrap().expect("keys that are made ahead");
    let sealed = entry.value.unwrap().keys;
    let key = world.master().delivery(Prekeys::PROTOCOL);
    let all = key.open(&sealed, &Sealed::of_prekeys(Prekeys::PROTOCOL)).unwrap();
    all.chunks(Prekeys::KEY).map(<[u8]>::to_vec).collect()
}

fn key_of(world: &World, of: &Credentials) -> Vec<u8> {
    let bound_to = Sealed::of_user(of.user_id, of.generation, Protocol::Shadowsocks2022);
    let key = world.master().delivery(Protocol::Shadowsocks2022);
    key.open(&of.shadowsocks_2022, &bound_to).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_given_once_and_void_before_their_owner_is_gone() {
    let (world, keys) = World::serving().await;
    let bucket: Bucket<Prekeys> = world.bus.own().await.unwrap();
    let first = told_anew(&world, &bucket, 0).await;
    assert_eq!(first.len(), keys::prekeys::AHEAD);

    let mut given = Vec::new();
    for (number, expected) in first.iter().enumerate().take(3) {
        let user = world.create(&format!("user{number}")).await;
        let key = key_of(&world, &world.issued(&user).await);
        assert_eq!(key, *expected);
        given.push(key);
    }

    world.bus.call(Rotate { user: "user0".parse().unwrap() }).await.unwrap();
    let again = world.credentials.get("user0").await.unwrap().unwrap().value.unwrap();
    assert_eq!(key_of(&world, &again), first[3]);
    let now = told(&world, &bucket).await;
    assert!(!now.contains(&given[0]), "a void key is told");
    assert!(now.contains(&given[1]) && now.contains(&first[3]), "theirs stand");

    world.bus.call(Delete { name: "user1".parse().unwrap() }).await.unwrap();
    eventually("user1's credentials are gone", SOON, async || {
        world.credentials.get("user1").await.unwrap().filter(|entry| entry.value.is_none())
    })
    .await;
    assert!(!told(&world, &bucket).await.contains(&given[1]), "a void key is told");

    // Nobody knows which of them were given.
    keys.kill();
    let before = bucket.revision().await.unwrap();
    let _keys = world.serve().await;
    let anew = told_anew(&world, &bucket, before).await;
    assert!(anew.iter().all(|key| !first.contains(key)));
    // Many at once are let in otherwise.
    world.create_many("many", 50).await;
    let issued: Vec<_> = world.settled().await.values().map(|held| key_of(&world, held)).collect();
    assert_eq!(issued.iter().filter(|key| anew.contains(key)).count(), 0);
}

/// However fast users come and go, nothing is told that was somebody's and is no more.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_told_whose_owner_is_gone() {
    let (world, _keys) = World::serving().await;
    let bucket: Bucket<Prekeys> = world.bus.own().await.unwrap();
    told_anew(&world, &bucket, 0).await;
    let mut issued = BTreeSet::new();
    for round in 0..5 {
        let names: Vec<String> = (0..40).map(|number| format!("user{number}-{round}")).collect();
        let held = stream::iter(&names).map(async |name| {
            let user = world.create(name).await;
            world.issued(&user).await
        });
        let held: Vec<Credentials> = held.buffer_unordered(4).collect().await;
        for of in &held {
            assert!(issued.insert(key_of(&world, of)), "a key is given twice");
        }
        let gone: Vec<UserName> = held.iter().step_by(2).map(|of| of.user.clone()).collect();
        stream::iter(gone)
            .for_each_concurrent(4, async |name| drop(world.bus.call(Delete { name }).await.unwrap()))
            .await;
        let standing: BTreeSet<_> = world.settled().await.values().map(|of| key_of(&world, of)).collect();
        let void = |key: &Vec<u8>| issued.contains(key) && !standing.contains(key);
        assert!(!told(&world, &bucket).await.iter().any(void), "a void key is told");
    }
}
