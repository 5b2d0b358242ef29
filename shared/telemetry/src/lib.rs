//! Traces, logs and metrics of every service and of the command line: one [`init`], at the start of `main`.
//!
//! - [`config`]  what can be set, and what is refused
//! - [`context`] trace context in and out of messages; used by `bus` and nobody else
//! - [`sampler`] which spans are kept, and which service they belong to
//! - [`metrics`] what is counted, and its text for Prometheus
//! - `export`    spans to the collector, each service under its own name
//! - `log`       events to stderr, each line with the ids of its trace
//!
//! Nothing here waits for the collector but [`Telemetry::shutdown`], and that no longer than it is told. Several
//! services in one process share all of it; the field `vpn.service` of a span keeps them apart (see [`sampler`]).

pub mod config;
pub mod context;
mod export;
mod log;
pub mod metrics;
pub mod sampler;

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use tracing::{Dispatch, level_filters::LevelFilter};
use tracing_subscriber::{Layer, Registry, filter::Targets, layer::SubscriberExt};

pub use config::{Config, Error, LogFormat};
pub use metrics::Metrics;

/// Spans that wait for the exporter; more are dropped. About 1 kB each, so 2 MB while a collector hangs.
const MAX_QUEUED_SPANS: usize = 2_048;
/// Spans in one request: far below the 4 MB that a gRPC message may have, and few enough to be made quickly.
const MAX_BATCH_SPANS: usize = 512;
/// How long a span waits for company. A person who looks a trace up has it by then.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// What runs until the process ends: keep it, and call [`Telemetry::shutdown`] last.
#[derive(Debug)]
#[must_use = "spans are flushed by `shutdown`"]
pub struct Telemetry {
    traces: SdkTracerProvider,
    metrics: Metrics,
}

/// Starts traces, logs and metrics for the whole process.
///
/// Needs no async runtime and connects to nothing: a collector that is away costs one line in the log.
pub fn init(config: &Config) -> Result<Telemetry, Error> {
    let (dispatch, telemetry) = build(config)?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| Error::AlreadyStarted)?;
    Ok(telemetry)
}

/// The same without making it the process's own: for a test that has several in one process.
pub fn build(config: &Config) -> Result<(Dispatch, Telemetry), Error> {
    let logged = config::filter(&config.filter)?;
    if !(0.0..=1.0).contains(&config.sample_ratio) {
        return Err(Error::SampleRatio { given: config.sample_ratio });
    }

    let traces = provider(config)?;
    let tracing = tracing_opentelemetry::layer()
        .with_tracer(traces.tracer("vpn"))
        // Where in the source a span was made and on which thread says little, and makes each span twice as big.
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false)
        .with_filter(traced());
    let subscriber = Registry::default().with(tracing).with(log::layer(config, logged));
    Ok((Dispatch::new(subscriber), Telemetry { traces, metrics: Metrics::new() }))
}

fn provider(config: &Config) -> Result<SdkTracerProvider, Error> {
    let builder = SdkTracerProvider::builder()
        .with_sampler(sampler::ByField::new(config.sample_ratio))
        // Unused: the exporter knows whose span it is. Given so that the SDK does not ask the environment.
        .with_resource(Resource::builder_empty().build());
    let Some(endpoint) = &config.otlp else {
        // Without a collector spans still have ids: they are in the log and in what is sent to others.
        return Ok(builder.build());
    };
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(MAX_QUEUED_SPANS)
        .with_max_export_batch_size(MAX_BATCH_SPANS)
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    let exporter = export::Exporter::new(endpoint, config)?;
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batch).build();
    Ok(builder.with_span_processor(processor).build())
}

/// Spans and events that become part of traces: ours. What the transport below us has to say would be a trace of
/// sending traces.
fn traced() -> Targets {
    ["h2", "hyper", "hyper_util", "rustls", "tonic", "tower"]
        .into_iter()
        .fold(Targets::new().with_default(LevelFilter::INFO), |targets, noisy| {
            targets.with_target(noisy, LevelFilter::OFF)
        })
}

impl Telemetry {
    /// Where things are counted; cheap to clone.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Sends the spans that are still here, for at most `limit`; what has not arrived by then is lost.
    ///
    /// A service takes a second or two for it, a command line a few hundred milliseconds: a person waits.
    pub async fn shutdown(self, limit: Duration) {
        let flush = move || self.traces.shutdown_with_timeout(limit);
        // It blocks, and it returns at the limit. There is nothing left to do about a failure here.
        let _ = tokio::task::spawn_blocking(flush).await;
    }
}
