//! Servers that will not do, and streams that somebody configured otherwise.

use std::time::{Duration, Instant};

use async_nats::jetstream::{
    self,
    stream::{Config, StorageType},
};
use bus::{Auth, Bucket, Bus};
use contract::{Code, Error};
use testkit::{nats::NatsServer, ports};
use tokio::net::TcpListener;

use crate::world::{Count, Counted, Echo, assert_code, connect, count};

async fn refused(config: bus::Config, within: Duration, code: Code) -> Error {
    let started = Instant::now();
    let error = assert_code(Bus::connect(&config).await.map(drop), code);
    assert!(started.elapsed() < within, "{error} took {:?}", started.elapsed());
    assert!(!error.hint.is_empty());
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_will_not_do_is_refused_within_a_second() {
    const SECOND: Duration = Duration::from_secs(1);
    let config = |url: String| bus::Config::new(url, "test");

    let old = NatsServer::options().old().start().await;
    let error = refused(config(old.url()), SECOND, Code::BUS_TOO_OLD).await;
    assert!(error.message.contains("2.9"), "{}", error.message);
    let plain = NatsServer::options().without_jetstream().start().await;
    refused(config(plain.url()), SECOND, Code::BUS_NO_JETSTREAM).await;

    let nobody = format!("nats://127.0.0.1:{}", ports::free());
    refused(config(nobody), SECOND, Code::BUS_UNREACHABLE).await;
    for nonsense in ["", "not a url", "http://127.0.0.1:1", "nats://", "nats://127.0.0.1:99999"] {
        refused(config(nonsense.to_owned()), SECOND, Code::BUS_UNREACHABLE).await;
    }
    // Something else listens there and says nothing: the time that a connection may take.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("nats://user:hunter2@{}", silent.local_addr().unwrap());
    let error = refused(config(silent), Duration::from_secs(4), Code::BUS_UNREACHABLE).await;
    assert!(!error.message.contains("hunter2"), "{}", error.message);

    let guarded = NatsServer::options().config("authorization { token: right }").start().await;
    let with = |token: &str| bus::Config { auth: Auth::Token(token.to_owned()), ..config(guarded.url()) };
    refused(config(guarded.url()), SECOND, Code::BUS_NOT_ALLOWED).await;
    refused(with("wrong"), SECOND, Code::BUS_NOT_ALLOWED).await;
    Bus::connect(&with("right")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_urls_one_that_answers_is_enough() {
    let nats = NatsServer::start().await;
    let nobody = format!("nats://127.0.0.1:{}", ports::free());
    for urls in [format!("{nobody},{}", nats.url()), format!("{}, {nobody}", nats.url())] {
        Bus::connect(&bus::Config::new(urls.clone(), "test")).await.unwrap_or_else(|e| panic!("{urls}: {e}"));
    }
    let config = bus::Config::new("nats://user:hunter2@one:4222,nats://user:hunter2@two:4222", "test");
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bus_forbids_is_told_at_once() {
    let users = r#"authorization { users: [
        { user: limited, password: x, permissions: { publish: ["$JS.>"], subscribe: ["_INBOX.>"] } }
    ] }"#;
    let nats = NatsServer::options().config(users).start().await;
    let auth = Auth::Password { user: "limited".into(), password: "x".into() };
    let bus = Bus::connect(&bus::Config { auth, ..bus::Config::new(nats.url(), "test") }).await.unwrap();
    let started = Instant::now();
    assert_code(bus.call(Echo::default()).await, Code::BUS_NOT_ALLOWED);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_told_and_loses_nothing() {
    let nats = NatsServer::options().max_file_store(64 * 1024).start().await;
    let bucket: Bucket<Count> = connect(&nats, "lab").await.own().await.unwrap();
    let mut stored = 0;
    let error = loop {
        let started = Instant::now();
        match bucket.insert(&count(&format!("{}-{stored}", "k".repeat(500)), 1), Counted).await {
            Ok(_) => stored += 1,
            Err(error) => {
                assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
                break Error::from(error);
            }
        }
        assert!(stored < 1_000, "it is never full");
    };
    assert_eq!(error.code, Code::BUS_STORAGE_FULL, "{error}");
    assert_eq!(bucket.revision().await.unwrap(), stored, "what was acknowledged is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_configured_otherwise_is_brought_in_line_or_refused() {
    let nats = NatsServer::start().await;
    let by_hand = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let config = |storage| Config {
        name: "KV_lab_counts".to_owned(),
        subjects: vec!["$KV.lab_counts.>".to_owned()],
        max_messages_per_subject: 1,
        storage,
        ..Config::default()
    };
    by_hand.create_stream(config(StorageType::File)).await.unwrap();
    by_hand.publish("$KV.lab_counts.a", "{\"name\":\"a\",\"value\":1}".into()).await.unwrap().await.unwrap();

    let bus = connect(&nats, "lab").await;
    let bucket: Bucket<Count> = bus.own().await.unwrap();
    let a = bucket.get("a").await.unwrap().unwrap();
    assert_eq!(a.value, Some(count("a", 1)), "what was there stays");
    let write =
        |n: u64| bus::Write { key: format!("b{n}"), value: Some(count("b", n)), event: Counted, expected: 0 };
    bucket.write_all(&[write(0), write(1)]).await.expect("atomic batches are allowed by now");
    let now = by_hand.get_stream("KV_lab_counts").await.unwrap();
    assert_eq!(now.cached_info().config.max_messages_per_subject, 64);

    by_hand.delete_stream("KV_lab_counts").await.unwrap();
    by_hand.create_stream(config(StorageType::Memory)).await.unwrap();
    let error = assert_code(bus.own::<Count>().await.map(drop), Code::BUS_DRIFT);
    assert!(error.message.contains("KV_lab_counts"), "{}", error.message);
    by_hand.delete_stream("KV_lab_counts").await.unwrap();
    bus.own::<Count>().await.expect("removed, it is made anew");
}
