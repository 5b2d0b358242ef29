//! One trace goes through requests, state and feeds, and through what is kept for later. In a program of its own:
//! spans are the whole process's.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::HeaderMap;
use bus::{
    Bus, Change, Origin, Shutdown,
    bucket::WriteError,
    origin::{caused_by, trace_from, traceparent},
};
use contract::{Bucket, Code, Error, EventName, Request, State, Subject};
use serde::{Deserialize, Serialize};
use testkit::{
    nats::NatsServer,
    otlp::{Collector, Span},
    wait::eventually,
};
use tracing::{Instrument, info_span};

const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Thing {
    name: String,
}

#[derive(Debug, Clone, Copy)]
struct Touched;

impl EventName for Touched {
    fn name(self) -> &'static str {
        "lab.touched"
    }
}

impl State for Thing {
    const BUCKET: Bucket = Bucket { name: "lab_things", owner: "lab", history: 8 };
    type Event = Touched;

    fn key(&self) -> String {
        self.name.clone()
    }
}

/// Stores a thing.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Touch {
    name: String,
}

impl Request for Touch {
    const SUBJECT: Subject = Subject::change("lab", "touch");
    type Reply = ();
}

/// Answers nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Nod {}

impl Request for Nod {
    const SUBJECT: Subject = Subject::read("lab", "nod");
    type Reply = ();
}

async fn touch(things: Arc<bus::Bucket<Thing>>, request: Touch) -> Result<(), Error> {
    let stored = things.insert(&Thing { name: request.name }, Touched).await;
    stored.map(drop).map_err(|error: WriteError| error.into())
}

async fn nod(_: Arc<bus::Bucket<Thing>>, _: Nod) -> Result<(), Error> {
    Ok(())
}

async fn connect(nats: &NatsServer, name: &str) -> Bus {
    Bus::connect(&bus::Config::new(nats.url(), name)).await.unwrap()
}

/// What the follower saw: key, actor and where it stood in a trace.
type Seen = Arc<Mutex<Vec<(String, String, Option<String>)>>>;

async fn follow(nats: &NatsServer, shutdown: &Shutdown) -> Seen {
    let bus = connect(nats, "follower").await;
    bus.own_dead_letters().await.unwrap();
    let (things, seen) = (bus.own::<Thing>().await.unwrap(), Seen::default());
    let kept = seen.clone();
    let handle = move |changes: Vec<Change<Thing>>| {
        let (bus, kept) = (bus.clone(), kept.clone());
        async move {
            bus.call(Nod {}).await?;
            let line = |change: Change<Thing>| (change.key.clone(), change.origin().actor, traceparent());
            kept.lock().unwrap().extend(changes.into_iter().map(line));
            Ok(())
        }
    };
    shutdown.spawn("follower", things.feed("follower").run(shutdown.clone(), handle));
    seen
}

fn children<'s>(spans: &'s [Span], of: &Span) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.parent_id.as_ref() == Some(&of.span_id)).collect()
}

/// The only child of that name; all of one trace.
fn child<'s>(spans: &'s [Span], of: &Span, name: &str, kind: &str, service: &str) -> &'s Span {
    let named: Vec<_> = children(spans, of).into_iter().filter(|span| span.name == name).collect();
    let [span] = named.as_slice() else { panic!("{name} under {}: {named:#?} in {spans:#?}", of.name) };
    assert_eq!((span.kind.as_str(), span.service.as_str()), (kind, service), "{span:#?}");
    assert_eq!(span.trace_id, of.trace_id);
    span
}

fn root<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found = spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(found.parent_id, None);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_through_all_of_it() {
    let collector = Collector::start().await;
    let config = telemetry::Config {
        otlp: Some(collector.endpoint()),
        filter: "off".to_owned(),
        ..telemetry::Config::new("test")
    };
    let telemetry = telemetry::init(&config).unwrap();
    let nats = NatsServer::start().await;
    let (own, bus, shutdown) = (connect(&nats, "lab").await, connect(&nats, "test").await, Shutdown::new());
    let things = Arc::new(own.own::<Thing>().await.unwrap());
    let serving = shutdown.clone();
    tokio::spawn(async move { own.service("lab", things).on(touch).on(nod).run(&serving).await.unwrap() });
    eventually("lab answers", SOON, async || bus.call(Nod {}).await).await;

    // While the follower is away: several that somebody did in one go, and several by one each.
    let touch_all = async |names: &[&str]| {
        for name in names {
            bus.call(Touch { name: (*name).to_owned() }).await.unwrap();
        }
    };
    touch_all(&["a", "b"]).instrument(info_span!("together")).await;
    touch_all(&["c"]).instrument(info_span!("apart one")).await;
    touch_all(&["d"]).instrument(info_span!("apart two")).await;
    let seen = follow(&nats, &shutdown).await;
    let count = || seen.lock().unwrap().len();
    eventually("the follower catches up", SOON, async || count() == 4).await;

    // One by one.
    let operator = info_span!("operator");
    let touched = Origin::operator("ann").scope(bus.call(Touch { name: "e".to_owned() }));
    touched.instrument(operator).await.unwrap();
    eventually("e is followed", SOON, async || count() == 5).await;
    let (key, actor, kept) = seen.lock().unwrap().last().cloned().unwrap();
    assert_eq!((key.as_str(), actor.as_str()), ("e", "ann"));
    let refused = bus.call(Touch { name: "e".to_owned() }).instrument(info_span!("again")).await.unwrap_err();
    assert_eq!(refused.code, Code::BUS_CONFLICT);

    // Kept with something that outlives the span; and what is no trace.
    let later = info_span!("later");
    caused_by(&later, &[trace_from(kept.as_deref())]);
    drop(later);
    for (name, nothing) in [("garbage", Some("00-garbage")), ("nothing", None)] {
        let span = info_span!("rooted", otel.name = name);
        caused_by(&span, &[trace_from(nothing)]);
    }
    assert_eq!(traceparent(), None, "no span, no trace");

    // Whoever sends a trace of their own, in whatever shape.
    let client = async_nats::connect(nats.url()).await.unwrap();
    let theirs = "4bf92f3577b34da6a3ce929d0e0e4736";
    for sent in [format!("00-{theirs}-00f067aa0ba902b7-01"), "nonsense".to_owned(), String::new()] {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", sent.as_str());
        let reply = client.request_with_headers("vpn.lab.nod", headers, "".into()).await.unwrap();
        assert_eq!(&reply.payload[..], b"null");
    }
    assert!(shutdown.finish(SOON).await);
    telemetry.shutdown(SOON).await;

    let spans = collector.spans();
    let call = child(&spans, root(&spans, "operator"), "call vpn.lab.touch", "CLIENT", "test");
    let request = child(&spans, call, "vpn.lab.touch", "SERVER", "lab");
    let followed = child(&spans, request, "follow lab_things", "CONSUMER", "follower");
    let asked = child(&spans, followed, "call vpn.lab.nod", "CLIENT", "follower");
    child(&spans, asked, "vpn.lab.nod", "SERVER", "lab");
    assert_eq!(request.attributes["messaging.system"], "nats");
    assert!(kept.unwrap().contains(&followed.span_id), "what is kept is where the follower stood");
    child(&spans, followed, "later", "INTERNAL", "test");
    for name in ["garbage", "nothing"] {
        assert_ne!(root(&spans, name).trace_id, followed.trace_id);
    }

    let call = child(&spans, root(&spans, "again"), "call vpn.lab.touch", "CLIENT", "test");
    let request = child(&spans, call, "vpn.lab.touch", "SERVER", "lab");
    for span in [call, request] {
        assert!(span.error.is_some(), "{span:?}");
        assert_eq!(span.attributes["error.code"], "bus.conflict");
    }
    assert_eq!(children(&spans, request).len(), 0, "nothing was changed, nothing follows");

    // However changes were handed over together, each of them leads on to where it was followed.
    let follows: Vec<_> = spans.iter().filter(|span| span.name == "follow lab_things").collect();
    for name in ["together", "apart one", "apart two"] {
        let cause = root(&spans, name);
        let led_on = follows.iter().any(|span| {
            span.trace_id == cause.trace_id || span.links.iter().any(|(trace, _)| *trace == cause.trace_id)
        });
        assert!(led_on, "{name} leads nowhere: {follows:#?}");
    }
    for span in &follows {
        assert!(span.parent_id.is_none() || span.links.is_empty(), "a child or linked: {span:#?}");
        assert!(span.parent_id.is_some() || span.links.len() > 1, "several causes or one: {span:#?}");
    }

    let nods: Vec<_> = spans.iter().filter(|span| span.name == "vpn.lab.nod").collect();
    let taken_up = nods.iter().filter(|span| span.trace_id == theirs).count();
    assert_eq!(taken_up, 1);
    assert!(nods.iter().any(|span| span.parent_id.is_none()), "nonsense begins a trace of its own");
}
