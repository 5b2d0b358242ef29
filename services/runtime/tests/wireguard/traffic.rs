use std::time::Duration;

use runtime::engine::{Converged, Engine as _};
use testkit::wireguard_client::WireguardClient;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::world::{Node, PAGE_WITHIN, PUBLIC_V4, PUBLIC_V6, User, World, adapter, engine_users};

const PAGE: u64 = 10_000_000;
/// More than enough for a first page, and less than a client waits before it tries its handshake again (5 s).
const SOON: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_10_mb_comes_through() {
    let world = World::new().await;
    let node = Node::start(&world).await;
    let user = User::new(2);
    node.add(&[&user]).await;
    let client = node.client(&world, &user).await;
    for host in [PUBLIC_V4, PUBLIC_V6] {
        let page = client.fetch(&world.page(host, PAGE), PAGE_WITHIN).await.unwrap();
        assert_eq!(page.bytes, PAGE);
        println!("{host}: {:.1} MB/s", PAGE as f64 / 1e6 / page.seconds);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_begins_and_ends_at_once_and_nobody_else_notices() {
    let world = World::new().await;
    let node = Node::start(&world).await;
    let (alice, bob) = (User::new(2), User::new(3));
    let page = world.page(PUBLIC_V4, 1);
    let stranger = node.client(&world, &alice).await.fetch(&page, SOON).await;
    assert!(stranger.is_err(), "a stranger got {stranger:?}");

    node.add(&[&alice, &bob]).await;
    let client = node.client(&world, &alice).await;
    let other = node.client(&world, &bob).await;
    let mut open = hold(&client, &world).await;
    let mut others = hold(&other, &world).await;

    node.remove(&[&alice]).await;
    // What was on its way when the peer went may still come; after that nothing does.
    let _ = tokio::time::timeout(Duration::from_millis(20), read_all(&mut open)).await;
    let after = tokio::time::timeout(SOON, open.read_u8()).await;
    assert!(!matches!(after, Ok(Ok(_))), "a byte came after the user was removed");
    let removed = node.client(&world, &alice).await.fetch(&page, SOON).await;
    assert!(removed.is_err(), "a removed user got {removed:?}");

    assert!(others.read_u8().await.is_ok(), "another user was cut off too");
    node.add(&[&alice]).await;
    node.client(&world, &alice).await.fetch(&page, SOON).await.unwrap();
    assert!(others.read_u8().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_survives_what_does_not_concern_it() {
    let world = World::new().await;
    let mut node = Node::start(&world).await;
    let (alice, bob, carol) = (User::new(2), User::new(3), User::new(4));
    node.add(&[&alice, &bob]).await;
    let client = node.client(&world, &alice).await;
    let mut open = hold(&client, &world).await;

    assert_eq!(node.converge(&[&alice, &bob]).await, Converged { added: 0, removed: 0 });
    node.add(&[&alice]).await;
    // Another agent finds the device running, and knows nothing of what is in it.
    node.adapter = adapter(node.run_dir.path(), &node.server);
    assert_eq!(node.converge(&[&alice, &carol]).await, Converged { added: 1, removed: 1 });
    node.remove(&[&carol]).await;
    // The session's next handshake would take five seconds: a byte within one comes by the old session.
    let next = tokio::time::timeout(Duration::from_secs(1), open.read_u8()).await;
    assert!(matches!(next, Ok(Ok(_))), "the session was cut: {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_new_keys_loses_the_old_ones() {
    let world = World::new().await;
    let node = Node::start(&world).await;
    let old = User::new(2);
    node.add(&[&old]).await;
    let client = node.client(&world, &old).await;
    let mut open = hold(&client, &world).await;

    let new = old.rotated();
    node.add(&[&new]).await;
    let _ = tokio::time::timeout(Duration::from_millis(20), read_all(&mut open)).await;
    let after = tokio::time::timeout(Duration::from_secs(1), open.read_u8()).await;
    assert!(after.is_err(), "the old keys still work: {after:?}");
    let client = node.client(&world, &new).await;
    client.fetch(&world.page(PUBLIC_V4, 1), PAGE_WITHIN).await.unwrap();
    let users = engine_users(&[&new]);
    let again = node.adapter.converge(&users, node.device.pid()).await.unwrap();
    assert_eq!(again, Converged { added: 0, removed: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_share_a_host() {
    let world = World::new().await;
    let (one, two) = (Node::start(&world).await, Node::start(&world).await);
    // The same address on both: users have one for all servers.
    let user = User::new(2);
    one.add(&[&user]).await;
    two.add(&[&user]).await;
    let (by_one, by_two) = (one.client(&world, &user).await, two.client(&world, &user).await);
    for host in [PUBLIC_V4, PUBLIC_V6] {
        for client in [&by_one, &by_two, &by_one] {
            client.fetch(&world.page(host, 100_000), PAGE_WITHIN).await.unwrap();
        }
    }
    drop(one);
    by_two.fetch(&world.page(PUBLIC_V4, 100_000), PAGE_WITHIN).await.unwrap();
}

async fn hold(client: &WireguardClient, world: &World) -> TcpStream {
    let url = format!("http://{PUBLIC_V4}:{}/slow", world.target.address().port());
    client.hold(&url, PAGE_WITHIN).await.unwrap()
}

async fn read_all(stream: &mut TcpStream) {
    while stream.read_u8().await.is_ok() {}
}
