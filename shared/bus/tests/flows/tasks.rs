//! Tasks that panic, and starts that wait for the bus.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bus::{Bus, Shutdown};
use contract::{Code, Error};
use testkit::{nats::NatsServer, ports, wait::eventually};

use crate::world::{Count, SOON, assert_code};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_ends_all_and_tells() {
    for until in [false, true] {
        let shutdown = Shutdown::new();
        let part = shutdown.part();
        let ended = Arc::new(AtomicBool::new(false));
        let (other, seen) = (shutdown.clone(), ended.clone());
        shutdown.spawn("other", async move {
            other.begun().await;
            seen.store(true, Ordering::SeqCst);
        });
        assert!(!shutdown.has_begun() && !shutdown.has_failed());
        let bug = async { panic!("a bug, made on purpose") };
        if until {
            part.spawn_until("bug", bug)
        } else {
            part.spawn("bug", bug)
        }
        tokio::time::timeout(SOON, shutdown.begun()).await.expect("everything is asked to end");
        assert!(shutdown.has_failed() && part.has_failed());
        assert!(shutdown.finish(SOON).await && ended.load(Ordering::SeqCst));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_ends_alone_and_with_the_whole() {
    let whole = Shutdown::new();
    let (first, second) = (whole.part(), whole.part());
    first.begin();
    assert!(first.has_begun() && !whole.has_begun() && !second.has_begun());
    whole.begin();
    assert!(second.has_begun() && !whole.has_failed());
}

/// Two servers of a cluster need each other: alone, one has core NATS and no JetStream.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_a_jetstream_that_is_away() {
    let gossip = [ports::free(), ports::free()];
    let member = |own: u16| {
        let routes = gossip.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
        let cluster = format!("cluster {{ name: lab, listen: \"127.0.0.1:{own}\", routes: [{routes}] }}");
        NatsServer::options().config(cluster)
    };
    let first = member(gossip[0]).start().await;
    let config = bus::Config::new(first.url(), "test");
    assert_code(Bus::connect(&config).await.map(drop), Code::BUS_TIMEOUT);

    let (shutdown, tries) = (Shutdown::new(), Arc::new(AtomicUsize::new(0)));
    let (own, tried) = (shutdown.clone(), tries.clone());
    let starting = tokio::spawn(async move {
        bus::start("test", &own, |_| {
            tried.fetch_add(1, Ordering::SeqCst);
            let config = config.clone();
            async move { Bus::connect(&config).await?.own::<Count>().await.map(drop) }
        })
        .await
    });
    let once_more = async || tries.load(Ordering::SeqCst) > 1;
    eventually("it tries again", SOON, once_more).await;
    let _second = member(gossip[1]).start().await;
    let started = tokio::time::timeout(3 * SOON, starting).await.expect("it starts").unwrap();
    assert_eq!(started.unwrap(), Some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_ends_what_it_began_and_gives_up_where_waiting_is_vain() {
    let shutdown = Shutdown::new();
    let left = Arc::new(AtomicUsize::new(0));
    let outcome = |error: Code, tries: usize| {
        let (left, shutdown, mut tried) = (left.clone(), &shutdown, 0);
        async move {
            bus::start("test", shutdown, move |part| {
                tried += 1;
                let (left, error) = (left.clone(), error.clone());
                part.spawn("begun", {
                    let part = part.clone();
                    async move {
                        part.begun().await;
                        left.fetch_add(1, Ordering::SeqCst);
                    }
                });
                async move { if tried < tries { Err(Error::new(error, "not now")) } else { Ok(tried) } }
            })
            .await
        }
    };
    assert_eq!(outcome(Code::BUS_STORE_FAILED, 3).await.unwrap(), Some(3));
    let two = async || left.load(Ordering::SeqCst) == 2;
    eventually("what the two failed tries began has ended", SOON, two).await;
    for vain in [Code::BUS_NO_JETSTREAM, Code::BUS_TOO_OLD, Code::BUS_NOT_ALLOWED, Code::BUS_DRIFT] {
        assert_code(outcome(vain.clone(), 3).await, vain);
    }
    let waiting = outcome(Code::BUS_UNREACHABLE, usize::MAX);
    let (ended, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        shutdown.begin();
    });
    assert_eq!(ended.unwrap(), None);
    assert!(shutdown.finish(SOON).await);
}
