//! A collector of spans: what Jaeger is in production, with the spans in reach of the test.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1 as wire,
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{ports, wait::eventually};

const SOON: Duration = Duration::from_secs(5);

/// A span as it arrived. Ids are lowercase hexadecimal.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The resource's `service.name`.
    pub service: String,
    /// The span's name.
    pub name: String,
    /// `SERVER`, `CLIENT`, `PRODUCER`, `CONSUMER` or `INTERNAL`.
    pub kind: String,
    /// 32 digits.
    pub trace_id: String,
    /// 16 digits.
    pub span_id: String,
    /// None for the first of a trace.
    pub parent_id: Option<String>,
    /// Trace state, as in the header.
    pub trace_state: String,
    /// Trace and span id of each link.
    pub links: Vec<(String, String)>,
    /// By key, as text.
    pub attributes: BTreeMap<String, String>,
    /// Names of the events in it.
    pub events: Vec<String>,
    /// Whether its status is an error, and the words.
    pub error: Option<String>,
    /// The resource's attributes, as text.
    pub resource: BTreeMap<String, String>,
    /// From its start to its end.
    pub duration: Duration,
}

/// An OTLP server on loopback. Ends when dropped.
#[derive(Debug)]
pub struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Span>>>,
    /// Of its own, so that its end is the end of every connection too.
    server: Option<Runtime>,
}

impl Collector {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let mut collector = Self { port: ports::free(), spans: Arc::default(), server: None };
        collector.restart().await;
        collector
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What has arrived so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits until `found` sees in the spans what it looks for.
    ///
    /// # Panics
    /// At the deadline, with the names of what has arrived.
    pub async fn wait_for<T>(&self, found: impl Fn(&[Span]) -> Option<T>, within: Duration) -> T {
        eventually("the spans arrive", within, async || {
            let spans = self.spans.lock().unwrap();
            found(&spans).ok_or_else(|| {
                spans.iter().map(|span| format!("{}:{}", span.service, span.name)).collect::<Vec<_>>()
            })
        })
        .await
    }

    /// Goes away, and its connections with it.
    pub fn stop(&mut self) {
        let Some(server) = self.server.take() else { return };
        server.shutdown_background();
        // That only asks.
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(started.elapsed() < SOON, "the collector does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Comes (back) on the same port with the spans it had.
    pub async fn restart(&mut self) {
        self.stop();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap().into_std().unwrap();
        let service = TraceServiceServer::new(Store { spans: Arc::clone(&self.spans) });
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        self.server = Some(runtime);
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Store {
    spans: Arc<Mutex<Vec<Span>>>,
}

#[tonic::async_trait]
impl TraceService for Store {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.spans.lock().unwrap();
        for of_resource in request.into_inner().resource_spans {
            let resource = texts(of_resource.resource.unwrap_or_default().attributes);
            for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
                spans.push(Span::new(span, &resource));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Span {
    fn new(span: wire::Span, resource: &BTreeMap<String, String>) -> Self {
        let kind = span.kind().as_str_name().trim_start_matches("SPAN_KIND_").to_owned();
        let status = span.status.unwrap_or_default();
        let failed = status.code() == wire::status::StatusCode::Error;
        Self {
            service: resource.get("service.name").cloned().unwrap_or_default(),
            name: span.name,
            kind,
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_id: (!span.parent_span_id.is_empty()).then(|| hex(&span.parent_span_id)),
            trace_state: span.trace_state,
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            attributes: texts(span.attributes),
            events: span.events.into_iter().map(|event| event.name).collect(),
            error: failed.then_some(status.message),
            resource: resource.clone(),
            duration: Duration::from_nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)),
        }
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|entry| (entry.key, text(entry.value.and_then(|any| any.value)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
