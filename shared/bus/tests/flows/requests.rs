//! Every request is answered: bugs, deadlines, bad input, too many at once, a service that stops.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use bus::service::{AT_ONCE, WAITING};
use contract::Code;
use futures::{StreamExt, stream::FuturesUnordered};
use testkit::wait::eventually;

use crate::world::{Echo, Panic, SOON, Wait, World, answer, assert_code, connect};

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_is_answered_and_the_service_lives_on() {
    let world = World::start().await;
    for _ in 0..3 {
        assert_code(world.bus.call(Panic {}).await, Code::SERVICE_PANICKED);
    }
    let (number, error) = world.raw("vpn.lab.panic", b"").await.unwrap_err();
    assert_eq!((number.as_str(), error.code), ("500", Code::SERVICE_PANICKED));
    assert!(!error.message.contains("on purpose"), "what a bug says is for the log: {}", error.message);
    assert_eq!(world.bus.call(Echo { text: "a".into(), times: None }).await.unwrap(), "a");
    assert!(!world.shutdown.has_failed(), "it costs its own reply only");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_answered_by_its_own_deadline() {
    let world = World::start().await;
    let within = Duration::from_millis(200);
    let started = Instant::now();
    let error = world.bus.call_within(Wait {}, within).await.unwrap_err();
    assert!([Code::BUS_TIMEOUT, Code::REQUEST_TIMEOUT].contains(&error.code), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());

    // Whoever listens a little longer hears that the work has been given up, not left running.
    let mut headers = HeaderMap::new();
    headers.insert("Vpn-Timeout", "200");
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let reply = client.request_with_headers("vpn.lab.wait", headers, "".into()).await.unwrap();
    let (number, error) = answer(reply).unwrap_err();
    assert_eq!((number.as_str(), error.code), ("504", Code::REQUEST_TIMEOUT));

    let error = world.bus.call_within(Unserved {}, SOON).await.unwrap_err();
    assert_eq!(error.code, Code::BUS_NO_RESPONDERS, "nobody serves it, and that is known at once");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Unserved {}

impl contract::Request for Unserved {
    const SUBJECT: contract::Subject = contract::Subject::read("lab", "unserved");
    type Reply = ();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_its_code() {
    let world = World::start().await;
    let refused = async |body: &[u8]| {
        let (number, error) = world.raw("vpn.lab.echo", body).await.unwrap_err();
        assert_eq!(number, "400");
        error
    };
    for body in ["nonsense", "{", "{\"text\":\"a\"} trailing", "\u{0}", "{\"text\":\"\u{1}\"}"] {
        assert_eq!(refused(body.as_bytes()).await.code, Code::REQUEST_NOT_JSON, "{body:?}");
    }
    assert_eq!(refused(b"{\"text\":\"\xff\"}").await.code, Code::REQUEST_NOT_JSON, "not UTF-8");
    for body in ["[]", "1", "{\"text\":1}", "{\"times\":-1}", "{\"texts\":\"a\"}"] {
        assert_eq!(refused(body.as_bytes()).await.code, Code::REQUEST_INVALID, "{body:?}");
    }
    let wrong = refused(b"{\"times\":-1}").await;
    assert!(wrong.message.contains("times"), "the field is named: {}", wrong.message);
    assert_eq!(world.raw("vpn.lab.echo", b"").await.unwrap(), "\"\"", "nothing stands for {{}}");

    let large = Echo { text: "x".repeat(2 << 20), times: None };
    assert_code(world.bus.call(large).await, Code::REQUEST_TOO_LARGE);
    let large_reply = Echo { text: "x".repeat(1 << 10), times: Some(2 << 10) };
    assert_code(world.bus.call(large_reply).await, Code::REQUEST_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused_and_the_rest_is_worked_on_a_few_at_a_time() {
    const TOO_MANY: usize = 100;
    let world = World::start().await;
    let started = Instant::now();
    let mut calls: FuturesUnordered<_> =
        (0..AT_ONCE + WAITING + TOO_MANY).map(|_| world.bus.call(Wait {})).collect();
    for _ in 0..TOO_MANY {
        assert_code(calls.next().await.unwrap(), Code::SERVICE_OVERLOADED);
    }
    assert!(started.elapsed() < Duration::from_millis(1_900), "at once: {:?}", started.elapsed());
    // Half of those that wait get their turn, the others do not.
    world.lab.gate.add_permits(WAITING / 2);
    for _ in 0..WAITING / 2 {
        calls.next().await.unwrap().unwrap();
    }
    for _ in 0..WAITING / 2 {
        assert_code(calls.next().await.unwrap(), Code::SERVICE_OVERLOADED);
    }
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(world.lab.most.load(Ordering::SeqCst), AT_ONCE);

    world.lab.gate.add_permits(AT_ONCE + 1);
    while let Some(done) = calls.next().await {
        done.unwrap();
    }
    world.bus.call(Wait {}).await.expect("a service that has recovered refuses nobody");
    assert_eq!(world.bus.call(Echo { text: "b".into(), times: None }).await.unwrap(), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_finishes_what_it_has_begun() {
    let world = World::start().await;
    let caller = connect(&world.nats, "caller").await;
    let begun = tokio::spawn(async move { caller.call(Wait {}).await });
    eventually("it is begun", SOON, async || world.lab.working.load(Ordering::SeqCst) == 1).await;
    world.shutdown.begin();
    // A request that was on its way to us in this moment is the one thing that is not answered.
    let soon = Duration::from_millis(200);
    let gone = async || {
        let answer = world.bus.call_within(Echo::default(), soon).await;
        answer.is_err_and(|error| error.code == Code::BUS_NO_RESPONDERS)
    };
    eventually("nothing new is taken on", SOON, gone).await;
    world.lab.gate.add_permits(1);
    begun.await.unwrap().unwrap();
    assert!(world.shutdown.finish(SOON).await, "tasks are left");
}
