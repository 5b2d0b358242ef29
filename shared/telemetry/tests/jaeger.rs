//! The real Jaeger understands what is sent: several services of one process, one trace.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::time::Duration;

use telemetry::{Config, context};
use testkit::jaeger::Jaeger;
use tracing::{dispatcher, info_span};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn one_trace_shows_each_service_by_its_name() {
    let jaeger = Jaeger::start().await;
    let config = Config { otlp: Some(jaeger.endpoint()), ..Config::new("vpnd") };
    let (dispatch, telemetry) = telemetry::build(&config).unwrap();
    let trace_id = dispatcher::with_default(&dispatch, || {
        let create = info_span!("users.create", otel.kind = "server", vpn.service = "users");
        create.in_scope(|| {
            info_span!("keys.issue", vpn.service = "keys").in_scope(|| {
                info_span!("engine.add", vpn.service = "runtime").in_scope(|| tracing::error!("refused"));
            });
            context::current_trace_id().unwrap()
        })
    });
    telemetry.shutdown(SOON).await;

    let spans = jaeger.wait_for(&trace_id, |spans| (spans.len() == 3).then(|| spans.to_vec()), SOON).await;
    let seen: Vec<_> =
        spans.iter().map(|span| (span.service.as_str(), span.name.as_str(), span.error)).collect();
    let expected =
        [("users", "users.create", false), ("keys", "keys.issue", false), ("runtime", "engine.add", true)];
    assert_eq!(seen, expected);
    assert_eq!(spans[0].parent_id, None);
    assert_eq!(spans[1].parent_id.as_ref(), Some(&spans[0].span_id));
    assert_eq!(spans[2].parent_id.as_ref(), Some(&spans[1].span_id));
    assert!(jaeger.trace("00000000000000000000000000000001").await.is_empty());
}
