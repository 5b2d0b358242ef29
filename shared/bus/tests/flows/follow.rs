//! Feeds and watches across restarts of everything; dead letters.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bus::{Bucket, Change, Shutdown, View};
use contract::{Code, Error};
use futures::{FutureExt, StreamExt};
use testkit::{nats::NatsServer, wait::eventually};
use tokio::sync::Semaphore;

use crate::{
    wire::Wire,
    world::{Count, Counted, SOON, connect, count},
};

/// What one reader was handed, one batch after the other.
type Seen = Arc<Mutex<Vec<(u64, String, u64)>>>;

struct Reader {
    seen: Seen,
    shutdown: Shutdown,
}

impl Reader {
    async fn start(nats: &NatsServer) -> Self {
        let bus = connect(nats, "reader").await;
        bus.own_dead_letters().await.unwrap();
        let bucket = bus.own::<Count>().await.unwrap();
        let (seen, shutdown) = (Seen::default(), Shutdown::new());
        let kept = seen.clone();
        shutdown.spawn(
            "reader",
            bucket.feed("reader").run(shutdown.clone(), move |changes: Vec<Change<Count>>| {
                let kept = kept.clone();
                async move {
                    let line = |change: Change<Count>| {
                        let value = change.entry.value.unwrap().value;
                        (change.entry.revision, change.key, value)
                    };
                    kept.lock().unwrap().extend(changes.into_iter().map(line));
                    Ok(())
                }
            }),
        );
        Self { seen, shutdown }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    async fn stop(self) -> Vec<(u64, String, u64)> {
        assert!(self.shutdown.finish(SOON).await);
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// 40 rounds over 50 keys, whatever happens to the server meanwhile.
async fn write(bucket: Bucket<Count>) {
    for value in 0..40 {
        for key in 0..50 {
            let count = count(&format!("k{key}"), value);
            match value {
                0 => drop(bucket.insert(&count, Counted).await.unwrap()),
                _ => {
                    let missing = || Error::new(Code::INTERNAL, "gone");
                    let change = |_: &Count| Ok(Some((count.clone(), Counted)));
                    bucket.modify(&count.name, missing, change).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_dropped_at_every_wait_goes_on_after_a_restart() {
    let mut nats = NatsServer::start().await;
    let bucket: Bucket<Count> = connect(&nats, "lab").await.own().await.unwrap();
    let mut watch = bucket.watch().await.unwrap();
    nats.kill();
    nats.restart().await;
    bucket.insert(&count("a", 1), Counted).await.unwrap();
    // As one of several watches fares of which another has news all the time.
    eventually("the change is seen", SOON, async || {
        let changes = watch.next().now_or_never().unwrap_or_default();
        changes.iter().any(|change| change.key == "a")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_misses_nothing_and_keeps_its_order_whoever_restarts() {
    let mut nats = NatsServer::start().await;
    let bus = connect(&nats, "lab").await;
    let bucket: Bucket<Count> = bus.own().await.unwrap();
    let views = Shutdown::new();
    let view = View::open(&bucket, &views).await.unwrap();
    let writing = tokio::spawn(write(bucket.clone()));

    let mut readers = Vec::new();
    for round in 0..4 {
        let reader = Reader::start(&nats).await;
        eventually("changes arrive", SOON, async || reader.count() > 150).await;
        if round % 2 == 1 {
            let before = reader.count();
            nats.kill();
            nats.restart().await;
            eventually("changes arrive again", SOON, async || reader.count() > before + 50).await;
        }
        readers.push(reader.stop().await);
    }
    writing.await.unwrap();
    let last = Reader::start(&nats).await;
    let end = async || last.seen.lock().unwrap().last().is_some_and(|(revision, ..)| *revision == 2_000);
    eventually("the feed is at its end", SOON, end).await;
    readers.push(last.stop().await);

    let mut next = 1;
    for seen in readers {
        let first = seen.first().unwrap().0;
        assert!(first <= next, "{first} came where {next} was due");
        for pair in seen.windows(2) {
            assert_eq!(pair[1].0, pair[0].0 + 1, "one reader sees each once and in order");
        }
        for (revision, key, value) in &seen {
            assert_eq!((revision - 1) / 50, *value, "{key} at {revision}");
        }
        next = seen.last().unwrap().0 + 1;
    }
    assert_eq!(next, 2_001);

    tokio::time::timeout(SOON, view.caught_up(2_000)).await.expect("the view follows across both restarts");
    assert_eq!(view.read().len(), 50);
    assert!(view.read().values().all(|count| count.value == 39));
    assert!(views.finish(SOON).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_is_and_what_comes_across_a_kill() {
    let mut nats = NatsServer::start().await;
    let bucket: Bucket<Count> = connect(&nats, "lab").await.own().await.unwrap();
    for value in 0..3 {
        let write = |key: &str| (key.to_owned(), value);
        for (key, value) in ["a", "b"].map(write) {
            let expected = bucket.get(&key).await.unwrap().map_or(0, |entry| entry.revision);
            bucket.write(&key, Some(&count(&key, value)), Counted, expected).await.unwrap();
        }
    }
    let mut all = bucket.watch().await.unwrap();
    let mut only_b = bucket.watch_keys("b").await.unwrap();
    let revisions = |changes: Vec<Change<Count>>| {
        changes.into_iter().map(|change| (change.key, change.entry.revision)).collect::<Vec<_>>()
    };
    let mut seen = Vec::new();
    while !all.is_current() {
        seen.extend(revisions(all.next().await));
    }
    assert_eq!(seen, [("a".to_owned(), 5), ("b".to_owned(), 6)], "the last of each, and nothing older");
    assert_eq!(revisions(only_b.next().await), [("b".to_owned(), 6)]);

    nats.kill();
    nats.restart().await;
    bucket.delete("b", Counted).await.unwrap();
    let after = tokio::time::timeout(SOON, all.next()).await.expect("the watch goes on");
    assert_eq!(after.len(), 1, "nothing comes twice: {after:?}");
    assert_eq!((after[0].key.as_str(), &after[0].entry.value), ("b", &None));
    assert_eq!((after[0].event(), after[0].origin().actor.as_str()), ("lab.counted", "service:lab"));
    assert_eq!(revisions(tokio::time::timeout(SOON, only_b.next()).await.unwrap()), [("b".to_owned(), 7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_when_a_connection_breaks_comes_again() {
    let nats = NatsServer::start().await;
    let bus = connect(&nats, "lab").await;
    bus.own_dead_letters().await.unwrap();
    let bucket: Bucket<Count> = bus.own().await.unwrap();
    let wire = Wire::to(&nats).await;
    let wired: Bucket<Count> = wire.connect().await.own().await.unwrap();
    let mut watch = wired.watch().await.unwrap();
    let (shutdown, seen, gate) =
        (Shutdown::new(), Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
    let (kept, opens) = (seen.clone(), gate.clone());
    let handle = move |changes: Vec<Change<Count>>| {
        kept.lock().unwrap().extend(changes.into_iter().map(|change| change.entry.revision));
        let opens = opens.clone();
        async move {
            opens.acquire().await.unwrap().forget();
            Ok(())
        }
    };
    shutdown.spawn("reader", wired.feed("reader").run(shutdown.clone(), handle));
    let stream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let stream = stream.get_stream("KV_lab_counts").await.unwrap();
    let insert = async |name: String| bucket.insert(&count(&name, 0), Counted).await.unwrap();

    let mut told = Vec::new();
    // Whether who reads on first meets the new connection or what came on it, is chance.
    for round in 0..10 {
        let first = insert(format!("handled{round}")).await;
        eventually("it is being handled", SOON, async || seen.lock().unwrap().last() == Some(&first)).await;
        wire.lose(async { _ = insert(format!("lost{round}")).await }).await;
        let last = insert(format!("after{round}")).await;
        let sent = async || {
            let info = stream.consumer_info("reader").await.unwrap();
            info.delivered.stream_sequence == last
        };
        eventually("the next one is there", SOON, sent).await;
        gate.add_permits(3);
        eventually("all is handled", SOON, async || seen.lock().unwrap().last() == Some(&last)).await;
        gate.forget_permits(3);
        while told.last() != Some(&last) {
            let changes = tokio::time::timeout(SOON, watch.next()).await.expect("the watch goes on");
            told.extend(changes.into_iter().map(|change| change.entry.revision));
        }
    }
    let each_once = (1..=30).collect::<Vec<_>>();
    assert_eq!(*seen.lock().unwrap(), each_once);
    assert_eq!(told, each_once);
    assert!(shutdown.finish(SOON).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_handled_is_kept_and_the_feed_goes_on() {
    let nats = NatsServer::start().await;
    let bus = connect(&nats, "lab").await;
    bus.own_dead_letters().await.unwrap();
    let bucket: Bucket<Count> = bus.own().await.unwrap();
    bucket.insert(&count("a", 1), Counted).await.unwrap();
    bucket.insert(&count("poison", 2), Counted).await.unwrap();
    let client = async_nats::connect(nats.url()).await.unwrap();
    client.request("$KV.lab_counts.garbage", "not json".into()).await.unwrap();
    bucket.insert(&count("unlucky", 3), Counted).await.unwrap();

    let (shutdown, done, misses) =
        (Shutdown::new(), Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let (kept, missed) = (done.clone(), misses.clone());
    let handle = move |changes: Vec<Change<Count>>| {
        let (kept, missed) = (kept.clone(), missed.clone());
        async move {
            if changes.iter().any(|change| change.key == "poison") {
                return Err(Error::new(Code::REQUEST_INVALID, "nobody\ncan swallow this"));
            }
            let mut missed = missed.lock().unwrap();
            if changes.iter().any(|change| change.key == "unlucky") && *missed < 7 {
                *missed += 1;
                return Err(Error::new(Code::BUS_STORE_FAILED, "not now"));
            }
            kept.lock().unwrap().extend(changes.into_iter().map(|change| change.key));
            Ok(())
        }
    };
    shutdown.spawn("reader", bucket.feed("reader").run(shutdown.clone(), handle));
    let both = async || *done.lock().unwrap() == ["a", "unlucky"];
    eventually("the others are handled, also the one that failed by no fault of its own", SOON, both).await;
    assert_eq!(*misses.lock().unwrap(), 7);

    let dead = async_nats::jetstream::new(client).get_stream("vpn_dead").await.unwrap();
    let consumer =
        dead.create_consumer(async_nats::jetstream::consumer::pull::Config::default()).await.unwrap();
    let letters = async || consumer.clone().info().await.unwrap().num_pending == 2;
    eventually("two dead letters", SOON, letters).await;
    let mut messages = consumer.messages().await.unwrap();
    let mut found = Vec::new();
    for _ in 0..2 {
        let letter = messages.next().await.unwrap().unwrap();
        let headers = letter.headers.clone().unwrap();
        let get = |name: &str| headers.get(name).unwrap().to_string();
        assert_eq!(letter.subject.as_str(), "vpn.dead.lab_counts.reader");
        found.push((get("Vpn-Dead-Subject"), get("Vpn-Dead-Sequence"), letter.payload.clone()));
        if found.last().unwrap().0.ends_with("poison") {
            assert!(get("Vpn-Reason").contains("can swallow this"));
            assert_eq!(serde_json::from_slice::<Count>(&letter.payload).unwrap(), count("poison", 2));
        }
    }
    found.sort();
    assert_eq!((found[0].0.as_str(), found[0].1.as_str()), ("$KV.lab_counts.garbage", "3"));
    assert_eq!((found[1].0.as_str(), found[1].1.as_str()), ("$KV.lab_counts.poison", "2"));

    // Once handled, a bad change does not come again.
    assert!(shutdown.finish(Duration::from_secs(5)).await);
    let reader = Reader::start(&nats).await;
    bucket.insert(&count("b", 1), Counted).await.unwrap();
    eventually("the next reader goes on", SOON, async || reader.count() > 0).await;
    let seen = reader.stop().await;
    assert_eq!(seen.iter().map(|(_, key, _)| key.as_str()).collect::<Vec<_>>(), ["b"]);
}
