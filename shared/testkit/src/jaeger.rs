//! The real Jaeger, with its traces in memory.

use std::{process::Command, time::Duration};

use serde_json::Value;

use crate::{
    http, ports,
    process::Process,
    programs::{program, workspace},
    wait::eventually,
};

/// Half a second on an idle machine; a loaded one gets time.
const READY_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A Jaeger of its own on free ports. Killed when dropped.
#[derive(Debug)]
pub struct Jaeger {
    otlp: u16,
    query: u16,
    _process: Process,
}

/// A span as Jaeger tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The service's name.
    pub service: String,
    /// The span's name.
    pub name: String,
    /// 16 digits.
    pub span_id: String,
    /// None for the first of a trace.
    pub parent_id: Option<String>,
    /// Whether its status is an error.
    pub error: bool,
}

impl Jaeger {
    /// Starts it with the configuration of the project, and returns when it takes spans.
    pub async fn start() -> Self {
        let [otlp, otlp_http, query, query_grpc, health] = [(); 5].map(|()| ports::free());
        let mut command = Command::new(program("jaeger"));
        command
            .arg("--config")
            .arg(workspace().join("tools/jaeger/config.yaml"))
            .env("JAEGER_OTLP_GRPC_PORT", otlp.to_string())
            .env("JAEGER_OTLP_HTTP_PORT", otlp_http.to_string())
            .env("JAEGER_QUERY_PORT", query.to_string())
            .env("JAEGER_QUERY_GRPC_PORT", query_grpc.to_string())
            .env("JAEGER_HEALTH_PORT", health.to_string())
            // It would trace its own queries, to whoever listens on the usual port.
            .env("OTEL_TRACES_SAMPLER", "always_off");
        let mut process = Process::spawn("jaeger", &command);
        let status = format!("http://127.0.0.1:{health}/status");
        eventually("jaeger is up", READY_WITHIN, async || {
            process.must_run();
            http::get(&status, ANSWER_WITHIN).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        Self { otlp, query, _process: process }
    }

    /// Where spans go: OTLP over gRPC.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.otlp)
    }

    /// Its page and its API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.query)
    }

    /// The spans of a trace, in the order in which they began; none while it knows none.
    pub async fn trace(&self, id: &str) -> Vec<Span> {
        let url = format!("{}/api/traces/{id}", self.url());
        let answer = http::get(&url, ANSWER_WITHIN).await.unwrap();
        if answer.status == 404 {
            return Vec::new();
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        let trace = &answer["data"][0];
        let mut spans: Vec<&Value> = trace["spans"].as_array().unwrap().iter().collect();
        spans.sort_by_key(|span| span["startTime"].as_u64());
        spans.into_iter().map(|span| Span::new(span, &trace["processes"])).collect()
    }

    /// Waits until `found` sees in the spans of a trace what it looks for.
    ///
    /// # Panics
    /// At the deadline, with the spans that are there.
    pub async fn wait_for<T>(&self, id: &str, found: impl Fn(&[Span]) -> Option<T>, within: Duration) -> T {
        eventually("the trace is in jaeger", within, async || {
            let spans = self.trace(id).await;
            found(&spans).ok_or(spans)
        })
        .await
    }
}

impl Span {
    fn new(span: &Value, processes: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let process = span["processID"].as_str().unwrap_or_default();
        let references = span["references"].as_array().into_iter().flatten();
        let mut parents = references.filter(|reference| reference["refType"] == "CHILD_OF");
        let mut tags = span["tags"].as_array().into_iter().flatten();
        Self {
            service: text(&processes[process]["serviceName"]),
            name: text(&span["operationName"]),
            span_id: text(&span["spanID"]),
            parent_id: parents.next().map(|parent| text(&parent["spanID"])),
            error: tags.any(|tag| tag["key"] == "error" && tag["value"] == true),
        }
    }
}
