//! Which node may open what.

use std::collections::BTreeSet;

use bus::Bucket;
use contract::{
    Protocol,
    fleet::DeleteServer,
    keys::{Grant, Sealed, ServerKeys},
};
use seal::CurveKey;
use testkit::wait::eventually;

use crate::world::{SOON, World};

async fn granted(grants: &Bucket<Grant>, node: &str, protocols: &[Protocol]) -> Option<Grant> {
    let wanted: BTreeSet<_> = protocols.iter().copied().collect();
    eventually(&format!("{node} may open {wanted:?}"), SOON, async || {
        let grant = grants.get(node).await.unwrap().and_then(|entry| entry.value);
        let has: BTreeSet<_> = grant.iter().flat_map(|grant| grant.boxes.keys().copied()).collect();
        if has == wanted { Ok(grant) } else { Err(format!("{has:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_open_what_it_serves_and_nothing_else() {
    use Protocol::{Shadowsocks2022, VlessReality, Wireguard};
    let (world, keys) = World::serving().await;
    let grants: Bucket<Grant> = world.bus.own().await.unwrap();
    let [one, two] = [0; 2].map(|_| CurveKey::from_bytes(seal::random().unwrap()));
    // A node whose key is none keeps nobody else from theirs.
    world.announce("broken", "XNONSENSE").await;
    world.server("w0", Wireguard, 1000, "broken").await;
    world.announce("one", &one.public()).await;
    world.announce("two", &two.public()).await;
    world.announce("idle", &one.public()).await;
    world.server("v1", VlessReality, 443, "one").await;
    world.server("s1", Shadowsocks2022, 8388, "one").await;
    let server = world.server("w2", Wireguard, 51820, "two").await;

    let grant = granted(&grants, "one", &[VlessReality, Shadowsocks2022]).await.unwrap();
    let sender = world.status().await.curve_key;
    assert_eq!((&grant.sender, grant.curve_key), (&sender, one.public()));
    let master = world.master();
    for (protocol, sealed) in &grant.boxes {
        let key = one.open(sealed, &sender).unwrap();
        assert_eq!(key.as_slice(), master.delivery(*protocol).as_bytes());
        assert!(two.open(sealed, &sender).is_err(), "another node opens it");
    }
    let grant = granted(&grants, "two", &[Wireguard]).await.unwrap();
    let key = two.open(&grant.boxes[&Wireguard], &sender).unwrap();
    let key = seal::SealingKey::new(seal_bytes(&key));
    let server_keys: Bucket<ServerKeys> = world.bus.own().await.unwrap();
    let of_server = eventually("server keys", SOON, async || {
        server_keys.get("w2").await.unwrap().and_then(|entry| entry.value)
    })
    .await;
    key.open(&of_server.private, &Sealed::of_server(server.id, Wireguard))
        .expect("a node opens its server's key");
    granted(&grants, "idle", &[]).await;
    granted(&grants, "broken", &[]).await;
    assert_eq!((world.status().await.nodes, world.status().await.servers), (2, 4));

    // Servers that go take the right with them; a node that comes with another key gets other boxes.
    world.bus.call(DeleteServer { name: "s1".parse().unwrap() }).await.unwrap();
    granted(&grants, "one", &[VlessReality]).await;
    keys.kill();
    world.bus.call(DeleteServer { name: "w2".parse().unwrap() }).await.unwrap();
    world.announce("one", &two.public()).await;
    let _keys = world.serve().await;
    granted(&grants, "two", &[]).await;
    let renewed = async || {
        let grant = grants.get("one").await.unwrap().unwrap().value.unwrap();
        two.open(&grant.boxes[&VlessReality], &sender).is_ok()
    };
    eventually("boxes for the new key", SOON, renewed).await;
}

fn seal_bytes(key: &[u8]) -> zeroize::Zeroizing<[u8; 32]> {
    zeroize::Zeroizing::new(key.try_into().unwrap())
}
