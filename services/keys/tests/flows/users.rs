//! Credentials follow users, whatever happens meanwhile.

use std::{collections::BTreeSet, time::Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use contract::{
    Code, Protocol,
    keys::{Credentials, Rotate, Sealed},
    users::{Delete, Suspend},
};
use futures::future::join_all;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::world::{World, assert_apart, named};

/// All that is private in credentials: they open with the master key, and in their own place only.
fn opened(world: &World, of: &Credentials) -> Vec<Vec<u8>> {
    let master = world.master();
    let bound_to = |protocol| Sealed::of_user(of.user_id, of.generation, protocol);
    let open = |protocol, sealed| {
        let key = master.delivery(protocol);
        let others = master.delivery(Protocol::ALL.into_iter().find(|other| *other != protocol).unwrap());
        assert!(others.open(sealed, &bound_to(protocol)).is_err(), "another protocol's nodes open it");
        key.open(sealed, &bound_to(protocol)).unwrap().to_vec()
    };
    let alone = Sealed::of_user_alone(of.user_id, of.generation);
    vec![
        open(Protocol::VlessReality, &of.vless_reality),
        open(Protocol::Shadowsocks2022, &of.shadowsocks_2022),
        open(Protocol::Wireguard, &of.wireguard.preshared_key),
        master.private().open(&of.wireguard.private_key, &alone).unwrap().to_vec(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_credentials_for_all_protocols_at_once() {
    let (world, _keys) = World::serving().await;
    let started = Instant::now();
    let alice = world.create("alice").await;
    let held = world.issued(&alice).await;
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    assert_eq!((held.user.as_str(), held.generation), ("alice", 1));

    let secrets = opened(&world, &held);
    assert_eq!(secrets.iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 32, 32]);
    assert_eq!(uuid::Uuid::from_slice(&secrets[0]).unwrap().get_version_num(), 4);
    let private: [u8; 32] = secrets[3].clone().try_into().unwrap();
    let public = PublicKey::from(&StaticSecret::from(private));
    assert_eq!(held.wireguard.public_key, STANDARD.encode(public.as_bytes()));

    let bob = world.issued(&world.create("bob").await).await;
    let both: BTreeSet<_> = secrets.into_iter().chain(opened(&world, &bob)).collect();
    assert_eq!(both.len(), 8, "no secret is made twice");
    assert_ne!(bob.wireguard.address, held.wireguard.address);

    // What is said of a user does not touch what it connects with.
    world.bus.call(Suspend { name: alice.name.clone(), reason: None }).await.unwrap();
    world.issued(&world.create("carol").await).await;
    assert_eq!(world.issued(&alice).await, held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_used_again_gets_new_credentials() {
    let (world, _keys) = World::serving().await;
    let first = world.create("alice").await;
    let before = world.issued(&first).await;
    world.bus.call(Delete { name: first.name.clone() }).await.unwrap();
    assert!(world.settled().await.is_empty(), "credentials go with their user");
    let second = world.create("alice").await;
    let after = world.issued(&second).await;
    assert_ne!(first.id, second.id);
    assert_eq!(after.generation, 1);
    let secrets: BTreeSet<_> = opened(&world, &before).into_iter().chain(opened(&world, &after)).collect();
    assert_eq!(secrets.len(), 8, "nothing of the earlier user's is given to the later");

    // As fast as the bus takes it, without waiting for anybody.
    let churn = (0..8).map(|n| {
        let bus = &world.bus;
        async move {
            let create = named(&format!("churn{n}"));
            for _ in 0..10 {
                bus.call(create.clone()).await.unwrap();
                bus.call(Delete { name: create.name.clone() }).await.unwrap();
            }
            if n % 2 == 0 {
                bus.call(create).await.unwrap();
            }
        }
    });
    join_all(churn).await;
    let held = world.settled().await;
    assert_eq!(
        held.keys().map(String::as_str).collect::<Vec<_>>(),
        ["alice", "churn0", "churn2", "churn4", "churn6"]
    );
    assert_apart(&held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_at_once_get_theirs_in_batches() {
    let (world, _keys) = World::serving().await;
    world.create_many("u", 1_000).await;
    let held = world.settled().await;
    assert_eq!(held.len(), 1_000);
    assert_apart(&held);

    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("KV_vpn_credentials").await.unwrap();
    assert_eq!(stream.cached_info().state.last_sequence, 1_000, "each is written once");
    let mut batches = BTreeSet::new();
    for sequence in (1..=1_000).step_by(10) {
        let message = stream.get_raw_message(sequence).await.unwrap();
        assert_eq!(message.headers.get("Vpn-Event").unwrap().as_str(), "keys.issued");
        batches.insert(message.headers.get("Nats-Batch-Id").unwrap().to_string());
    }
    assert!(batches.len() <= 4, "{} writes for 1,000 users", batches.len());
    assert_eq!(world.status().await.users, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_credentials_are_all_new_but_for_the_address() {
    let (world, keys) = World::serving().await;
    let alice = world.create("alice").await;
    let before = world.issued(&alice).await;
    let rotated = world.bus.call(Rotate { user: alice.name.clone() }).await.unwrap();
    assert_eq!(rotated.generation, 2);
    let after = world.issued(&alice).await;
    assert_eq!((after.generation, after.user_id), (2, alice.id));
    assert_eq!(after.wireguard.address, before.wireguard.address);
    assert_ne!(after.wireguard.public_key, before.wireguard.public_key);
    let secrets: BTreeSet<_> = opened(&world, &before).into_iter().chain(opened(&world, &after)).collect();
    assert_eq!(secrets.len(), 8);

    let many = join_all((0..10).map(|_| world.bus.call(Rotate { user: alice.name.clone() }))).await;
    let generations: BTreeSet<u32> = many.into_iter().map(|rotated| rotated.unwrap().generation).collect();
    assert_eq!(generations, (3..=12).collect());

    let nobody = world.bus.call(Rotate { user: "nobody".parse().unwrap() }).await.unwrap_err();
    assert_eq!(nobody.code, Code::KEYS_NOT_ISSUED);
    keys.stop().await.unwrap();
    let _keys = world.serve().await;
    assert_eq!(world.bus.call(Rotate { user: alice.name.clone() }).await.unwrap().generation, 13);
    world.bus.call(Delete { name: alice.name.clone() }).await.unwrap();
    assert!(world.settled().await.is_empty());
    let gone = world.bus.call(Rotate { user: alice.name }).await.unwrap_err();
    assert_eq!(gone.code, Code::KEYS_NOT_ISSUED);
}
