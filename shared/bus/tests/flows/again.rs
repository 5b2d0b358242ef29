//! Buckets that begin again: a restored backup, a stream made anew.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use bus::{Bucket, Bus, Change, Shutdown, View, Watch};
use testkit::{nats::NatsServer, wait::eventually};

use crate::world::{Count, Counted, SOON, connect, count};

/// Everybody who follows a bucket.
struct Followers {
    view: View<Count>,
    watch: Watch<Count>,
    only_b: Watch<Count>,
    fed: Arc<Mutex<Vec<String>>>,
    shutdown: Shutdown,
}

impl Followers {
    async fn start(bus: &Bus) -> Self {
        bus.own_dead_letters().await.unwrap();
        let bucket: Bucket<Count> = bus.own().await.unwrap();
        let (shutdown, fed) = (Shutdown::new(), Arc::new(Mutex::new(Vec::new())));
        let kept = fed.clone();
        let feed = bucket.feed("reader").run(shutdown.clone(), move |changes: Vec<Change<Count>>| {
            kept.lock().unwrap().extend(changes.into_iter().map(|change| change.key));
            std::future::ready(Ok(()))
        });
        shutdown.spawn("reader", feed);
        Self {
            view: View::open(&bucket, &shutdown).await.unwrap(),
            watch: bucket.watch().await.unwrap(),
            only_b: bucket.watch_keys("b").await.unwrap(),
            fed,
            shutdown,
        }
    }

    async fn have_seen(&mut self, keys: &[&str], what: &str) {
        eventually(what, SOON, async || {
            let (viewed, fed) = (self.view.read().len(), self.fed.lock().unwrap().len());
            if viewed == keys.len() && fed >= keys.len() { Ok(()) } else { Err(format!("{viewed} {fed}")) }
        })
        .await;
        assert_eq!(self.view.read().keys().collect::<Vec<_>>(), keys);
    }
}

/// What a watch tells until it tells about `last`.
async fn told(watch: &mut Watch<Count>, last: &str) -> Vec<(String, bool)> {
    let mut told = Vec::new();
    while !told.iter().any(|(key, _)| key == last) {
        let changes = tokio::time::timeout(SOON, watch.next()).await.unwrap_or_else(|_| panic!("{told:?}"));
        told.extend(changes.into_iter().map(|change| (change.key, change.entry.value.is_some())));
    }
    told
}

fn lines(told: &[(&str, bool)]) -> Vec<(String, bool)> {
    told.iter().map(|(key, there)| ((*key).to_owned(), *there)).collect()
}

async fn insert(bucket: &Bucket<Count>, keys: &[&str]) {
    for key in keys {
        bucket.insert(&count(key, 1), Counted).await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "cp -a {from:?} {to:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_notices_that_an_older_backup_was_restored() {
    let mut nats = NatsServer::start().await;
    let bus = connect(&nats, "lab").await;
    let bucket: Bucket<Count> = bus.own().await.unwrap();
    insert(&bucket, &["a"]).await;
    nats.stop();
    let backup = tempfile::tempdir().unwrap();
    copy(&nats.store(), &backup.path().join("store"));
    nats.restart().await;

    let mut followers = Followers::start(&bus).await;
    insert(&bucket, &["b", "c", "d", "e"]).await;
    followers.have_seen(&["a", "b", "c", "d", "e"], "all is seen").await;
    assert_eq!(told(&mut followers.watch, "e").await.len(), 5);
    told(&mut followers.only_b, "b").await;

    nats.stop();
    std::fs::remove_dir_all(nats.store()).unwrap();
    copy(&backup.path().join("store"), &nats.store());
    followers.fed.lock().unwrap().clear();
    nats.restart().await;
    followers.have_seen(&["a"], "the view is what the backup is").await;
    let anew = told(&mut followers.watch, "e").await;
    assert_eq!(anew, lines(&[("a", true), ("b", false), ("c", false), ("d", false), ("e", false)]));
    assert_eq!(told(&mut followers.only_b, "b").await, lines(&[("b", false)]));

    let never = tokio::time::timeout(SOON, followers.view.caught_up(5)).await;
    never.expect("nobody waits for what is gone");

    insert(&bucket, &["f"]).await;
    followers.have_seen(&["a", "f"], "what follows is seen").await;
    assert_eq!(told(&mut followers.watch, "f").await, lines(&[("f", true)]));
    let fed = async || followers.fed.lock().unwrap().last().is_some_and(|key| key == "f");
    eventually("the feed goes on", SOON, fed).await;
    assert!(followers.shutdown.finish(SOON).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_notices_a_bucket_that_was_made_anew() {
    let nats = NatsServer::start().await;
    let bus = connect(&nats, "lab").await;
    let bucket: Bucket<Count> = bus.own().await.unwrap();
    let mut followers = Followers::start(&bus).await;
    insert(&bucket, &["a", "b", "c"]).await;
    followers.have_seen(&["a", "b", "c"], "all is seen").await;
    told(&mut followers.watch, "c").await;
    told(&mut followers.only_b, "b").await;
    followers.fed.lock().unwrap().clear();

    let by_hand = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    by_hand.delete_stream("KV_lab_counts").await.unwrap();
    let bucket: Bucket<Count> = bus.own().await.unwrap();
    // Longer than the old one was: its revisions alone do not give it away.
    insert(&bucket, &["b", "d", "e", "f", "g"]).await;
    followers.have_seen(&["b", "d", "e", "f", "g"], "the view is what the new one is").await;
    let anew = told(&mut followers.watch, "c").await;
    let there = ["b", "d", "e", "f", "g"].map(|key| (key, true));
    assert_eq!(anew, lines(&[there.as_slice(), &[("a", false), ("c", false)]].concat()));
    assert_eq!(told(&mut followers.only_b, "b").await, lines(&[("b", true)]));
    assert_eq!(*followers.fed.lock().unwrap(), ["b", "d", "e", "f", "g"], "each once");
    assert!(followers.shutdown.finish(SOON).await);
}
