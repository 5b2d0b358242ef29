use std::time::{Duration, Instant};

use runtime::engine::{Converged, Engine as _};

use crate::world::{Node, PAGE_WITHIN, PUBLIC_V4, User, World, engine_users};

const USERS: u32 = 10_000;
/// What is promised of a release build. One for tests takes 2 s on two cores, and three times as long beside others.
const ADDED_WITHIN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 5 });
/// So many go at once: each costs `gotatun` a look through all there are.
const LEAVE: usize = 100;
const ONE_BY_ONE: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_users_are_taken_in() {
    let world = World::new().await;
    let node = Node::start(&world).await;
    let users: Vec<User> = (2..USERS + 2).map(User::new).collect();
    let all = engine_users(&users.iter().collect::<Vec<_>>());
    let pid = node.device.pid();

    let started = Instant::now();
    node.adapter.add(&all, pid).await.unwrap();
    let added = started.elapsed();
    let started = Instant::now();
    let converged = node.adapter.converge(&all, pid).await.unwrap();
    let compared = started.elapsed();
    assert_eq!(converged, Converged { added: 0, removed: 0 });

    let last = users.last().unwrap();
    let client = node.client(&world, last).await;
    client.fetch(&world.page(PUBLIC_V4, 10_000_000), PAGE_WITHIN).await.unwrap();

    // One among all the others comes and goes.
    let (mut leaves, mut joins) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ONE_BY_ONE {
        let started = Instant::now();
        node.remove(&[&users[0]]).await;
        leaves += started.elapsed();
        let started = Instant::now();
        node.add(&[&users[0]]).await;
        joins += started.elapsed();
    }
    let (leaves, joins) = (leaves / ONE_BY_ONE, joins / ONE_BY_ONE);
    let started = Instant::now();
    let converged = node.adapter.converge(&all[LEAVE..], pid).await.unwrap();
    assert_eq!(converged, Converged { added: 0, removed: LEAVE });
    let removed = started.elapsed();
    println!(
        "{USERS} users: added in {added:?}, compared in {compared:?}, {LEAVE} removed in {removed:?}; \
         one leaves in {leaves:?} and joins in {joins:?}"
    );
    client.fetch(&world.page(PUBLIC_V4, 1), PAGE_WITHIN).await.unwrap();
    assert!(added < ADDED_WITHIN, "{added:?}");
}
