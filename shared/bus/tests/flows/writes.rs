//! Guarded writes and batches, also while the server is killed.

use std::time::{Duration, Instant};

use bus::{Bucket, Entry, Write, bucket::WriteError};
use contract::{Code, Error};
use futures::future::join_all;
use testkit::nats::NatsServer;

use crate::world::{Count, Counted, connect, count};

async fn bucket(nats: &NatsServer) -> Bucket<Count> {
    connect(nats, "lab").await.own().await.unwrap()
}

fn missing() -> Error {
    Error::new(Code::INTERNAL, "it is gone")
}

async fn increment(bucket: &Bucket<Count>, name: &str) -> Result<Count, Error> {
    bucket.modify(name, missing, |at| Ok(Some((count(&at.name, at.value + 1), Counted)))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_one_wins_and_the_other_knows() {
    let nats = NatsServer::start().await;
    let (one, other) = (bucket(&nats).await, bucket(&nats).await);
    let first = one.insert(&count("a", 1), Counted).await.unwrap();
    assert!(matches!(other.insert(&count("a", 9), Counted).await, Err(WriteError::Conflict)));

    let (x, y) = (count("a", 10), count("a", 20));
    let (one_won, other_won) =
        tokio::join!(one.write("a", Some(&x), Counted, first), other.write("a", Some(&y), Counted, first));
    assert!(one_won.is_ok() != other_won.is_ok(), "{one_won:?} and {other_won:?}");
    let error = Error::from(one_won.and(other_won).unwrap_err());
    assert_eq!(error.code, Code::BUS_CONFLICT);

    let before = one.get("a").await.unwrap().unwrap().value.unwrap().value;
    let all = join_all((0..12).map(|n| increment(if n % 2 == 0 { &one } else { &other }, "a"))).await;
    all.into_iter().for_each(|done| drop(done.unwrap()));
    assert_eq!(one.get("a").await.unwrap().unwrap().value.unwrap().value, before + 12, "none is lost");

    assert!(one.delete("a", Counted).await.unwrap().is_some());
    assert!(one.delete("a", Counted).await.unwrap().is_none());
    other.insert(&count("a", 1), Counted).await.expect("a deleted key can be used again");

    // A change that was decided on the whole bucket.
    let last = one.revision().await.unwrap();
    one.write_after("b", Some(&count("b", 1)), Counted, last).await.unwrap();
    let late = other.write_after("c", Some(&count("c", 1)), Counted, last).await;
    assert!(matches!(late, Err(WriteError::Conflict)), "{late:?}");
    assert_eq!(one.get("c").await.unwrap(), None);
}

fn writes(range: std::ops::Range<u64>) -> Vec<Write<Count>> {
    let write = |n: u64| Write {
        key: format!("n{n}"),
        value: Some(count(&format!("n{n}"), n)),
        event: Counted,
        expected: 0,
    };
    range.map(write).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let nats = NatsServer::start().await;
    let bucket = bucket(&nats).await;
    assert_eq!(bucket.write_all(&[]).await.unwrap(), 0);
    assert_eq!(bucket.write_all(&writes(0..1_000)).await.unwrap(), 1_000);
    // One of them is there already: at the start, in the middle, at the end.
    for clash in [2_000, 2_500, 2_999] {
        let mut batch = writes(2_000..3_000);
        batch[clash - 2_000].key = "n7".to_owned();
        let refused = bucket.write_all(&batch).await;
        assert!(matches!(refused, Err(WriteError::Conflict)), "{refused:?}");
        assert_eq!(bucket.revision().await.unwrap(), 1_000, "nothing of it is stored");
    }
    let too_many = bucket.write_all(&writes(3_000..4_001)).await;
    assert!(matches!(too_many, Err(WriteError::Failed(_))), "{too_many:?}");
    assert_eq!(bucket.revision().await.unwrap(), 1_000);
    let seven = bucket.get("n7").await.unwrap();
    assert_eq!(seven, Some(Entry { value: Some(count("n7", 7)), revision: 8 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_outlive_a_killed_server_and_are_stored_once() {
    let mut nats = NatsServer::start().await;
    let bucket = bucket(&nats).await;
    bucket.insert(&count("one", 0), Counted).await.unwrap();
    let (singles, batches) = (bucket.clone(), bucket.clone());
    let single = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        for _ in 0..400 {
            let started = Instant::now();
            increment(&singles, "one").await.unwrap();
            longest = longest.max(started.elapsed());
        }
        longest
    });
    let batch = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        for n in 0..40 {
            let started = Instant::now();
            batches.write_all(&writes(n * 100..(n + 1) * 100)).await.unwrap();
            longest = longest.max(started.elapsed());
        }
        longest
    });
    for _ in 0..3 {
        let before = loop {
            if let Ok(Some(entry)) = bucket.get("one").await {
                break entry.value.unwrap().value;
            }
        };
        let further = async || bucket.get("one").await.unwrap().unwrap().value.unwrap().value > before + 20;
        testkit::wait::eventually("writing goes on", crate::world::SOON, further).await;
        nats.kill();
        nats.restart().await;
    }
    let longest = single.await.unwrap().max(batch.await.unwrap());
    assert_eq!(bucket.get("one").await.unwrap().unwrap().value.unwrap().value, 400, "each once");
    assert_eq!(bucket.revision().await.unwrap(), 1 + 400 + 40 * 100, "nothing is stored twice");
    assert!(longest < Duration::from_secs(3), "a write that met the kill took {longest:?}");
}
