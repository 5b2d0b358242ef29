use std::time::{Duration, Instant};

use runtime::engine::{Converged, Engine as _};

use crate::world::{Node, PAGE_WITHIN, PUBLIC_V4, User, World, engine_users};

const USERS: u32 = 10_000;
/// Half a second on two idle cores, in a build for tests; the promise is 5 s.
const ADDED_WITHIN: Duration = Duration::from_secs(5);

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
    let started = Instant::now();
    for _ in 0..20 {
        node.remove(&[&users[0]]).await;
        node.add(&[&users[0]]).await;
    }
    let one = started.elapsed() / 40;
    let started = Instant::now();
    let few = &all[..100];
    assert_eq!(
        node.adapter.converge(few, pid).await.unwrap(),
        Converged { added: 0, removed: USERS as usize - 100 }
    );
    let removed = started.elapsed();
    println!(
        "{USERS} users: added in {added:?}, compared in {compared:?}, removed in {removed:?}; one: {one:?}"
    );
    assert!(added < ADDED_WITHIN, "{added:?}");
}
