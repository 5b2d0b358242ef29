//! What a client imports.

use contract::{
    Code, Protocol,
    fleet::DeleteServer,
    keys::{Link, Rotate},
    users::Delete,
};
use seal::CurveKey;
use testkit::xray_client;

use crate::world::{World, named};

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_a_link_for_each_server_at_once() {
    let (world, _keys) = World::serving().await;
    let curve = CurveKey::from_bytes(seal::random().unwrap());
    world.announce("node-1", &curve.public()).await;
    for (name, protocol, port) in [
        ("a-vless", Protocol::VlessReality, 443),
        ("b-ss", Protocol::Shadowsocks2022, 8388),
        ("c-wg", Protocol::Wireguard, 51820),
    ] {
        world.server(name, protocol, port, "node-1").await;
    }
    // Nobody has waited for any keys.
    let alice = world.create("alice").await;
    let all = Link { user: alice.name.clone(), server: None };
    let links = world.bus.call(all.clone()).await.unwrap().links;
    let names: Vec<_> = links.iter().map(|link| (link.server.as_str(), link.protocol)).collect();
    assert_eq!(
        names,
        [
            ("a-vless", Protocol::VlessReality),
            ("b-ss", Protocol::Shadowsocks2022),
            ("c-wg", Protocol::Wireguard),
        ]
    );
    let again = world.bus.call(all.clone()).await.unwrap().links;
    let text =
        |links: &[contract::keys::ServerLink]| links.iter().map(|l| l.link.clone()).collect::<Vec<_>>();
    assert_eq!(text(&links), text(&again), "a link stays the same");
    for (link, port) in [(&links[0].link, 443), (&links[1].link, 8388)] {
        let read = xray_client::Link::parse(link).unwrap();
        assert_eq!((read.host.as_str(), read.port), ("vpn.example.org", port));
        assert!(read.label.starts_with("alice@"), "{}", read.label);
    }
    let held = world.issued(&alice).await;
    assert!(links[2].link.contains("Endpoint = vpn.example.org:51820"));
    assert!(links[2].link.contains(&held.wireguard.address.v4().to_string()));

    let one = Link { user: alice.name.clone(), server: Some("b-ss".parse().unwrap()) };
    assert_eq!(world.bus.call(one.clone()).await.unwrap().links[0].link, links[1].link);
    world.bus.call(Rotate { user: alice.name.clone() }).await.unwrap();
    let rotated = text(&world.bus.call(all.clone()).await.unwrap().links);
    assert!(text(&links).iter().zip(&rotated).all(|(old, new)| old != new), "links made before are void");

    let refused = async |user: &str, server: Option<&str>| {
        let server = server.map(|name| name.parse().unwrap());
        world.bus.call(Link { user: user.parse().unwrap(), server }).await.unwrap_err().code
    };
    assert_eq!(refused("nobody", None).await, Code::USERS_NOT_FOUND);
    assert_eq!(refused("alice", Some("nowhere")).await, Code::FLEET_SERVER_NOT_FOUND);
    world.bus.call(DeleteServer { name: "b-ss".parse().unwrap() }).await.unwrap();
    assert_eq!(world.bus.call(all.clone()).await.unwrap().links.len(), 2);
    // A server of the same name is another server: it has keys of its own.
    world.server("b-ss", Protocol::Shadowsocks2022, 8388, "node-1").await;
    assert_ne!(world.bus.call(one.clone()).await.unwrap().links[0].link, rotated[1]);

    world.bus.call(Delete { name: alice.name.clone() }).await.unwrap();
    assert_eq!(refused("alice", None).await, Code::USERS_NOT_FOUND);
    world.bus.call(named("alice")).await.unwrap();
    let other = text(&world.bus.call(all).await.unwrap().links);
    assert!(rotated.iter().all(|old| !other.contains(old)), "an earlier user's links are nobody's");
}
