use std::{io, time::Instant};

use testkit::{sites::Target, wireguard_client::WireguardClient};

use crate::world::{
    ALLOWED_HOST, Node, OWN, PAGE_WITHIN, PUBLIC_V4, PUBLIC_V6, SILENT_FOR, User, World, page,
};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_is_reached_but_what_is_allowed() {
    let world = World::new().await;
    let node = Node::start(&world).await;
    let (alice, bob) = (User::new(2), User::new(3));
    node.add(&[&alice, &bob]).await;
    let client = node.client(&world, &alice).await;
    let other = node.client(&world, &bob).await;
    for host in [PUBLIC_V4, PUBLIC_V6, ALLOWED_HOST] {
        client.fetch(&world.page(host, 1), PAGE_WITHIN).await.unwrap();
    }

    let seen = world.target.requests();
    for host in ["10.200.0.1", "172.31.255.1", "192.168.78.1", "169.254.169.254", "fd99::1", "fd00:ec2::254"]
    {
        // It is there, and reached by who may.
        assert!(
            world.server.dial((ip(host), world.target.address().port()).into(), PAGE_WITHIN).await.is_ok()
        );
        refused(&client, &world.page(host, 1)).await;
    }
    assert_eq!(world.target.requests(), seen);

    // The host itself, by each of its addresses.
    let own = world.server.host(|| Target::start_on("::".parse().unwrap())).await;
    let port = own.address().port();
    for host in [OWN, &world.cable.near.to_string(), "fd00:cab1::1", "10.64.0.1", "fd76:706e::1"] {
        refused(&client, &page(host, port, 1)).await;
    }
    // Linux takes packets to loopback for an error, unless asked otherwise: the filter refuses them too.
    world.server.run("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    client.namespace().run("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    client.namespace().ip("addr del 127.0.0.1/8 dev lo");
    client.namespace().ip("addr add 10.64.0.2/32 dev lo");
    refused(&client, &page("127.0.0.1", port, 1)).await;
    assert_eq!(own.requests(), 0);

    // Another user, who can be reached by nobody.
    let at_bob = other.namespace().host(|| Target::start_on("::".parse().unwrap())).await;
    let port = at_bob.address().port();
    for host in [bob.address().v4().to_string(), bob.address().v6().to_string()] {
        refused(&client, &page(&host, port, 1)).await;
        let from_outside = world.internet.dial((ip(&host), port).into(), SILENT_FOR).await;
        assert!(from_outside.is_err());
    }
    assert_eq!(at_bob.requests(), 0);
    client.fetch(&world.page(PUBLIC_V4, 1), PAGE_WITHIN).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_not_somebody_else() {
    let world = World::new().await;
    let node = Node::start(&world).await;
    let (alice, bob) = (User::new(2), User::new(3));
    node.add(&[&alice, &bob]).await;
    let client = node.client(&world, &alice).await;
    client.fetch(&world.page(PUBLIC_V4, 1), PAGE_WITHIN).await.unwrap();

    client.namespace().ip(&format!("addr add {}/32 dev wg0", bob.address().v4()));
    client.namespace().ip(&format!("addr del {}/32 dev wg0", alice.address().v4()));
    let seen = world.target.requests();
    assert!(client.fetch(&world.page(PUBLIC_V4, 1), SILENT_FOR).await.is_err());
    assert_eq!(world.target.requests(), seen);
}

fn ip(host: &str) -> std::net::IpAddr {
    host.parse().unwrap()
}

async fn refused(client: &WireguardClient, url: &str) {
    let started = Instant::now();
    let answer = client.fetch(url, PAGE_WITHIN).await;
    let error = answer.expect_err(url);
    // Not `TimedOut`: the user is told.
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{url}: {error:?}");
    assert!(started.elapsed() < SILENT_FOR, "{url}: {error} after {:?}", started.elapsed());
}
