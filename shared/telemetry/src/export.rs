//! Spans to the collector: OTLP over gRPC, each service's spans under a resource with that service's name.
//!
//! The SDK's exporter knows one resource, and one process of ours runs several services. So this one sorts a batch by
//! the name that [`crate::sampler`] left in each span's trace state, takes that and our marking fields out, and
//! sends everything in one request.
//!
//! It has a small runtime of its own, which runs only while a batch is being sent, on the thread of the SDK's
//! batch processor. A flush at shutdown can therefore never wait for the very thread that waits for it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::SpanContext};
use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    transform::{
        common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SpanData, SpanExporter},
};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};

use crate::{
    config::{Config, Error},
    context::without_ours,
    sampler::{SAMPLE_FIELD, SERVICE_FIELD, SERVICE_KEY},
};

/// A collector on the same network answers in milliseconds; longer only holds up the next batch.
const SEND_LIMIT: Duration = Duration::from_secs(3);
/// Part of the above.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Time for the runtime to notice that the collector has closed the connection since the last batch, so that
/// this one takes a new connection.
const LOOK_AROUND: Duration = Duration::from_millis(1);

pub(crate) struct Exporter {
    runtime: Runtime,
    client: TraceServiceClient<Channel>,
    endpoint: String,
    service: String,
    instance: Option<String>,
    away: AtomicBool,
}

impl Exporter {
    pub(crate) fn new(endpoint: &str, config: &Config) -> Result<Self, Error> {
        let refused = || Error::Endpoint { given: endpoint.to_owned() };
        let address = Endpoint::from_shared(endpoint.to_owned()).map_err(|_| refused())?;
        if address.uri().scheme_str() != Some("http") || address.uri().host().is_none() {
            return Err(refused());
        }
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Exporter { reason: error.to_string() })?;
        let channel = {
            let _inside = runtime.enter();
            address.connect_timeout(CONNECT_LIMIT).connect_lazy()
        };
        Ok(Self {
            runtime,
            client: TraceServiceClient::new(channel),
            endpoint: endpoint.to_owned(),
            service: config.service.clone(),
            instance: config.instance.clone(),
            away: AtomicBool::new(false),
        })
    }

    fn request(&self, batch: Vec<SpanData>) -> ExportTraceServiceRequest {
        let mut by_service: BTreeMap<String, Vec<SpanData>> = BTreeMap::new();
        for mut span in batch {
            let service =
                span.span_context.trace_state().get(SERVICE_KEY).unwrap_or(&self.service).to_owned();
            unmark(&mut span);
            by_service.entry(service).or_default().push(span);
        }
        let resource_spans = by_service
            .into_iter()
            .flat_map(|(service, spans)| group_spans_by_resource_and_scope(spans, &self.resource(service)))
            .collect();
        ExportTraceServiceRequest { resource_spans }
    }

    fn resource(&self, service: String) -> ResourceAttributesWithSchema {
        let instance = self.instance.clone().map(|id| KeyValue::new("service.instance.id", id));
        let attributes = [
            KeyValue::new("service.namespace", "vpn"),
            KeyValue::new("service.name", service),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let resource =
            Resource::builder_empty().with_attributes(attributes.into_iter().chain(instance)).build();
        ResourceAttributesWithSchema::from(&resource)
    }

    /// Says once that the collector is away, and once that it is back.
    fn note(&self, sent: Result<(), &str>) {
        match sent {
            Ok(()) if self.away.swap(false, Ordering::Relaxed) => {
                tracing::info!(endpoint = %self.endpoint, "the collector of traces is back");
            }
            Err(reason) if !self.away.swap(true, Ordering::Relaxed) => {
                tracing::warn!(endpoint = %self.endpoint, %reason, "the collector of traces is away; traces are lost until it is back");
            }
            _ => {}
        }
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let request = self.request(batch);
        let mut client = self.client.clone();
        // The batch processor calls this on a thread of its own, outside any runtime; so blocking is in order.
        let sent = self.runtime.block_on(async move {
            tokio::time::sleep(LOOK_AROUND).await;
            tokio::time::timeout(SEND_LIMIT, client.export(request)).await
        });
        let sent = match sent {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(reason(&status)),
            Err(_) => Err(format!("no answer within {} s", SEND_LIMIT.as_secs())),
        };
        self.note(sent.as_ref().map(|&()| ()).map_err(String::as_str));
        sent.map_err(OTelSdkError::InternalFailure)
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exporter({})", self.endpoint)
    }
}

/// Takes out what was only there to be found here.
fn unmark(span: &mut SpanData) {
    span.attributes.retain(|attribute| !matches!(attribute.key.as_str(), SERVICE_FIELD | SAMPLE_FIELD));
    let marked = &span.span_context;
    if marked.trace_state().get(SERVICE_KEY).is_some() {
        span.span_context = SpanContext::new(
            marked.trace_id(),
            marked.span_id(),
            marked.trace_flags(),
            marked.is_remote(),
            without_ours(marked.trace_state()),
        );
    }
}

/// tonic's own text is "transport error"; the cause at the end of the chain says which.
fn reason(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if std::ptr::addr_eq(cause, status) { status.message().to_owned() } else { cause.to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use testkit::otlp::Collector;
    use tracing::{Metadata, Subscriber, span};

    use super::*;

    /// Keeps the levels of the events.
    #[derive(Clone, Default)]
    struct Levels(Arc<Mutex<Vec<tracing::Level>>>);

    impl Subscriber for Levels {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().starts_with("telemetry")
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_collector_that_goes_and_comes_back_is_one_line_each() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut collector = runtime.block_on(Collector::start());
        let exporter = Exporter::new(&collector.endpoint(), &Config::new("users")).unwrap();
        // The future does its work in one go: it blocks.
        let export = || futures::executor::block_on(exporter.export(Vec::new()));

        let levels = Levels::default();
        tracing::subscriber::with_default(levels.clone(), || {
            export().unwrap();
            assert!(levels.0.lock().unwrap().is_empty());
            for _ in 0..2 {
                collector.stop();
                export().unwrap_err();
                export().unwrap_err();
                // tonic's own words for it are "transport error".
                let refused = export().unwrap_err().to_string();
                assert!(refused.contains("Connection refused"), "{refused}");
                runtime.block_on(collector.restart());
                export().unwrap();
                export().unwrap();
            }
        });
        use tracing::Level;
        assert_eq!(*levels.0.lock().unwrap(), [Level::WARN, Level::INFO, Level::WARN, Level::INFO]);
    }
}
