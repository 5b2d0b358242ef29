//! Requests as a service: NATS micro services, so that `nats micro ls`, `info` and `stats` work.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap,
    service::{ServiceExt, endpoint::Endpoint},
};
use bytes::Bytes;
use contract::{Code, Error, Invalid, NodeName, Request, Subject};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
};
use serde::de::{DeserializeOwned, IgnoredAny};
use telemetry::context;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tracing::{Instrument, field::Empty, info_span};

use crate::{
    Bus, Origin, Shutdown,
    call::{CALL_WITHIN, record_error},
    origin::{self, TIMEOUT},
    shutdown::panic_text,
};

/// The header with the text of an error (NATS ADR-32).
pub const ERROR: &str = "Nats-Service-Error";
/// The header with the number of an error (NATS ADR-32).
pub const ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Requests that are worked on at once: at 0.6 ms each this is far more than one synced disk takes, and few
/// enough that their memory (some kB each) does not matter.
pub const AT_ONCE: usize = 256;
/// Requests that wait for their turn besides. A service that does 2,000 a second gets to the last of them in a
/// second; whoever comes after them is better off with another replica than with an answer after its deadline.
pub const WAITING: usize = 2_048;
/// A request whose turn does not come for so long is refused rather than kept waiting.
const SHED_AFTER: Duration = Duration::from_secs(2);

/// With what it needs: the code around it stands in the program once, not once for each service and request.
type Handler = Box<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, Error>> + Send + Sync>;

struct Route {
    subject: Subject,
    handler: Handler,
}

/// A service before it runs: its routing table.
pub struct Service<C> {
    bus: Bus,
    name: &'static str,
    ctx: Arc<C>,
    routes: Vec<Route>,
    node: Option<NodeName>,
}

impl Bus {
    /// A service with this name, whose handlers get `ctx`.
    pub fn service<C: Send + Sync + 'static>(&self, name: &'static str, ctx: Arc<C>) -> Service<C> {
        Service { bus: self.clone(), name, ctx, routes: Vec::new(), node: None }
    }
}

impl<C: Send + Sync + 'static> Service<C> {
    /// Serves requests that are for one node as this node.
    #[must_use]
    pub fn at(mut self, node: NodeName) -> Self {
        self.node = Some(node);
        self
    }

    /// Serves the request that is in the handler's signature.
    #[must_use]
    pub fn on<R, E, F, W>(mut self, handler: F) -> Self
    where
        R: Request,
        E: Into<Error>,
        F: Fn(Arc<C>, R) -> W + Send + Sync + 'static,
        W: Future<Output = Result<R::Reply, E>> + Send + 'static,
    {
        let ctx = self.ctx.clone();
        let erased: Handler = Box::new(move |body| match decode::<R>(&body) {
            Ok(request) => {
                let work = handler(ctx.clone(), request);
                async move {
                    let reply = work.await.map_err(Into::into)?;
                    serde_json::to_vec(&reply).map(Bytes::from).map_err(not_written)
                }
                .boxed()
            }
            Err(error) => ready(Err(error)).boxed(),
        });
        self.routes.push(Route { subject: R::SUBJECT, handler: erased });
        self
    }

    /// Serves until shutdown begins, then finishes what it has taken on.
    pub async fn run(self, shutdown: &Shutdown) -> Result<(), Error> {
        let Self { bus, name, routes, node, .. } = self;
        Routes { bus, name, routes, node }.run(shutdown).await
    }
}

/// A routing table with all that its handlers need.
struct Routes {
    bus: Bus,
    name: &'static str,
    routes: Vec<Route>,
    node: Option<NodeName>,
}

impl Routes {
    async fn run(self, shutdown: &Shutdown) -> Result<(), Error> {
        let failures: Arc<BTreeMap<String, AtomicU64>> = Arc::new(
            self.routes.iter().map(|route| (route.subject.verb.to_owned(), AtomicU64::new(0))).collect(),
        );
        let counted = failures.clone();
        let failed =
            |error: async_nats::Error| Error::new(Code::BUS_UNREACHABLE, format!("start service: {error}"));
        let micro = self
            .bus
            .client
            .service_builder()
            .description(format!("VPN control plane: {}", self.name))
            .queue_group(self.name)
            .stats_handler(move |endpoint, _| {
                let refused = counted.get(&endpoint).map_or(0, |count| count.load(Ordering::Relaxed));
                serde_json::json!({ "refused": refused })
            })
            .start(self.name, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(failed)?;
        let seats = Arc::new(Semaphore::new(AT_ONCE + WAITING));
        let places = Arc::new(Semaphore::new(AT_ONCE));
        for route in self.routes {
            let node = if route.subject.per_node { self.node.as_ref() } else { None };
            let subject = route.subject.render(node);
            let endpoint = micro
                .endpoint_builder()
                .name(route.subject.verb)
                .add(subject.as_str())
                .await
                .map_err(failed)?;
            let worker = Worker {
                bus: self.bus.clone(),
                service: self.name,
                route,
                subject,
                seats: seats.clone(),
                places: places.clone(),
                failures: failures.clone(),
            };
            shutdown.spawn("endpoint", worker.serve(endpoint, shutdown.clone()));
        }
        self.bus.flush().await;
        tracing::info!(service = self.name, "ready");
        shutdown.begun().await;
        let _ = micro.stop().await;
        Ok(())
    }
}

struct Worker {
    bus: Bus,
    service: &'static str,
    route: Route,
    subject: String,
    /// For who works or waits.
    seats: Arc<Semaphore>,
    /// For who works.
    places: Arc<Semaphore>,
    failures: Arc<BTreeMap<String, AtomicU64>>,
}

impl Worker {
    async fn serve(self, mut endpoint: Endpoint, shutdown: Shutdown) {
        let worker = Arc::new(self);
        loop {
            let request = tokio::select! {
                request = endpoint.next() => request,
                () = shutdown.begun() => break,
            };
            let Some(request) = request else { break };
            // Taken off the connection at once, so that what is refused is refused at once: the queue below us
            // would be as long, and nobody could say when it was full.
            let Ok(seat) = worker.seats.clone().try_acquire_owned() else {
                worker.refuse(&request, Code::SERVICE_OVERLOADED, "too many requests are waiting").await;
                continue;
            };
            let (worker, arrived, ending) = (worker.clone(), Instant::now(), shutdown.clone());
            shutdown.spawn("request", async move {
                match timeout(SHED_AFTER, worker.places.acquire()).await {
                    Ok(_place) => worker.answer(request, arrived).await,
                    Err(_) => {
                        let why = "its turn did not come: too many requests are being worked on";
                        worker.refuse(&request, Code::SERVICE_OVERLOADED, why).await;
                    }
                }
                drop(seat);
                // The process may end with this task, and the reply has only been handed to the connection.
                if ending.has_begun() {
                    worker.bus.flush().await;
                }
            });
        }
        let _ = endpoint.stop().await;
        while let Some(request) = endpoint.next().await {
            worker.refuse(&request, Code::SERVICE_STOPPING, "it came too late").await;
        }
        worker.bus.settle().await;
    }

    /// Refuses a request before anything is done about it.
    async fn refuse(&self, request: &async_nats::service::Request, code: Code, why: &str) {
        self.reply(request, Err(Error::new(code, format!("{}: {why}", self.subject)))).await;
    }

    async fn answer(&self, request: async_nats::service::Request, arrived: Instant) {
        let headers = request.message.headers.as_ref();
        let span = info_span!(
            "request",
            otel.name = self.subject,
            otel.kind = "server",
            otel.status_code = Empty,
            error.code = Empty,
            vpn.service = self.service,
            vpn.sample = origin::sample(self.route.subject.effect),
            messaging.system = "nats",
            messaging.destination.name = self.subject,
        );
        context::set_parent(&span, origin::trace_of(headers));
        let within = headers
            .and_then(|headers| headers.get(TIMEOUT)?.as_str().parse().ok())
            .map_or(CALL_WITHIN, |millis| Duration::from_millis(millis).min(CALL_WITHIN));
        // A request is read in here, too: whatever panics is answered.
        let work = async { (self.route.handler)(request.message.payload.clone()).await };
        let origin = Origin::of(headers);
        let result = async {
            let guarded = AssertUnwindSafe(origin.scope(work)).catch_unwind();
            match timeout_at(arrived + within, guarded).await {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => {
                    let what = panic_text(panic.as_ref());
                    tracing::error!(subject = self.subject, panic = what, "a handler panicked");
                    Err(Error::new(Code::SERVICE_PANICKED, format!("{} met a bug", self.subject)))
                }
                Err(_) => Err(Error::new(
                    Code::REQUEST_TIMEOUT,
                    format!("{} did not finish within {} ms", self.subject, within.as_millis()),
                )),
            }
        }
        .instrument(span.clone())
        .await;
        if let Err(error) = &result {
            record_error(&span, error);
            span.in_scope(|| tracing::info!(subject = self.subject, code = %error.code, message = error.message, "refused"));
        }
        self.reply(&request, result).await;
    }

    async fn reply(&self, request: &async_nats::service::Request, result: Result<Bytes, Error>) {
        if request.message.reply.is_none() {
            return;
        }
        let largest = self.bus.client.max_payload();
        let result = match result {
            Ok(body) if body.len() > largest => Err(Error::new(
                Code::REQUEST_TOO_LARGE,
                format!("the reply has {} bytes; the bus takes {largest}", body.len()),
            )),
            other => other,
        };
        let mut headers = HeaderMap::new();
        let body = match result {
            Ok(body) => body,
            Err(error) => {
                if let Some(count) = self.failures.get(self.route.subject.verb) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                headers.insert(ERROR, format!("{}: {}", error.code, one_line(&error.message)).as_str());
                headers.insert(ERROR_CODE, error.status().to_string().as_str());
                serde_json::to_vec(&error).unwrap_or_default().into()
            }
        };
        // Also a refusal goes out as `Ok`: an `Err` would have no body. It counts the request for `nats micro stats`.
        let sent = request.respond_with_headers(Ok(body), headers).await;
        if let Err(error) = sent {
            tracing::warn!(%error, subject = self.subject, "a reply could not be sent");
        }
    }
}

/// A header holds one line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// Reads a request; an empty body stands for `{}`. The error names the field and keeps the code of its type.
fn decode<R: DeserializeOwned>(body: &[u8]) -> Result<R, Error> {
    let body = object(body)?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let request = serde_path_to_error::deserialize(&mut reader).map_err(not_read)?;
    reader.end().map_err(not_json)?;
    Ok(request)
}

fn object(body: &[u8]) -> Result<&[u8], Error> {
    let body = if body.is_empty() { b"{}" } else { body };
    // An array would be taken for the fields in their order, and mean something else after the next one is added.
    if body.trim_ascii_start().first() != Some(&b'{') && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        return Err(Error::new(Code::REQUEST_INVALID, "a request is one JSON object"));
    }
    Ok(body)
}

fn not_read(error: serde_path_to_error::Error<serde_json::Error>) -> Error {
    let path = error.path().to_string();
    let inner = error.into_inner();
    let text = inner.to_string();
    match Invalid::split(&text) {
        Some((code, message)) => Error::new(code, format!("{path}: {message}")),
        None if inner.is_data() && path != "." => {
            Error::new(Code::REQUEST_INVALID, format!("{path}: {text}"))
        }
        None if inner.is_data() => Error::new(Code::REQUEST_INVALID, text),
        None => not_json(inner),
    }
}

fn not_json(error: serde_json::Error) -> Error {
    Error::new(Code::REQUEST_NOT_JSON, error.to_string())
}

fn not_written(error: serde_json::Error) -> Error {
    Error::new(Code::INTERNAL, error.to_string())
}
