//! A service, a kind of state, and what tests ask of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bus::{Bus, Shutdown};
use contract::{Bucket, Code, Error, EventName, Request, State, Subject};
use serde::{Deserialize, Serialize};
use testkit::{nats::NatsServer, wait::eventually};
use tokio::sync::Semaphore;

/// Long enough for two cores that also compile.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// State of the tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) name: String,
    pub(crate) value: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted;

impl EventName for Counted {
    fn name(self) -> &'static str {
        "lab.counted"
    }
}

impl State for Count {
    const BUCKET: Bucket = Bucket { name: "lab_counts", owner: "lab", history: 64 };
    type Event = Counted;

    fn key(&self) -> String {
        self.name.clone()
    }
}

pub(crate) fn count(name: &str, value: u64) -> Count {
    Count { name: name.to_owned(), value }
}

/// Gives back what it gets, as often as asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Echo {
    #[serde(default)]
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) times: Option<usize>,
}

impl Request for Echo {
    const SUBJECT: Subject = Subject::read("lab", "echo");
    type Reply = String;
}

/// Is answered once the test lets it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wait {}

impl Request for Wait {
    const SUBJECT: Subject = Subject::change("lab", "wait");
    type Reply = ();
}

/// Meets a bug.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Panic {}

impl Request for Panic {
    const SUBJECT: Subject = Subject::change("lab", "panic");
    type Reply = ();
}

/// What the handlers share with the test.
pub(crate) struct Lab {
    /// Lets [`Wait`] go on.
    pub(crate) gate: Semaphore,
    pub(crate) working: AtomicUsize,
    pub(crate) most: AtomicUsize,
}

async fn echo(_: Arc<Lab>, request: Echo) -> Result<String, Error> {
    Ok(request.text.repeat(request.times.unwrap_or(1)))
}

async fn wait(lab: Arc<Lab>, _: Wait) -> Result<(), Error> {
    let now = lab.working.fetch_add(1, Ordering::SeqCst) + 1;
    lab.most.fetch_max(now, Ordering::SeqCst);
    lab.gate.acquire().await.unwrap().forget();
    lab.working.fetch_sub(1, Ordering::SeqCst);
    Ok(())
}

async fn panics(_: Arc<Lab>, _: Panic) -> Result<(), Error> {
    panic!("a bug, made on purpose")
}

/// A bus with the service `lab` on it, and a client.
pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) bus: Bus,
    pub(crate) lab: Arc<Lab>,
    pub(crate) shutdown: Shutdown,
}

impl World {
    pub(crate) async fn start() -> Self {
        let nats = NatsServer::start().await;
        let lab = Arc::new(Lab {
            gate: Semaphore::new(0),
            working: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let (own, bus) = (connect(&nats, "lab").await, connect(&nats, "test").await);
        let shutdown = Shutdown::new();
        let (serving, ctx) = (shutdown.clone(), lab.clone());
        tokio::spawn(async move {
            own.service("lab", ctx).on(echo).on(wait).on(panics).run(&serving).await.unwrap();
        });
        eventually("lab answers", SOON, async || bus.call(Echo::default()).await).await;
        Self { nats, bus, lab, shutdown }
    }

    /// A request as anybody may send it; the reply's error number and the error, or its body.
    pub(crate) async fn raw(&self, subject: &str, body: &[u8]) -> Result<String, (String, Error)> {
        let client = async_nats::connect(self.nats.url()).await.unwrap();
        answer(client.request(subject.to_owned(), body.to_vec().into()).await.unwrap())
    }
}

pub(crate) fn answer(reply: async_nats::Message) -> Result<String, (String, Error)> {
    let body = String::from_utf8(reply.payload.to_vec()).unwrap();
    let headers = reply.headers.unwrap_or_default();
    match (headers.get("Nats-Service-Error"), headers.get("Nats-Service-Error-Code")) {
        (None, None) => Ok(body),
        (Some(text), Some(code)) => {
            let error: Error = serde_json::from_str(&body).unwrap();
            assert!(text.as_str().starts_with(error.code.as_str()), "{text} is not about {error}");
            assert!(!error.hint.is_empty() && error.docs.contains('#'), "{error:?} does not say what to do");
            Err((code.to_string(), error))
        }
        other => panic!("one error header without the other: {other:?}"),
    }
}

pub(crate) async fn connect(nats: &NatsServer, name: &str) -> Bus {
    Bus::connect(&bus::Config::new(nats.url(), name)).await.unwrap()
}

#[track_caller]
pub(crate) fn assert_code<T: std::fmt::Debug>(result: Result<T, Error>, code: Code) -> Error {
    let error = result.expect_err("it is refused");
    assert_eq!(error.code, code, "{error}");
    error
}
