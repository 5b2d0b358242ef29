//! Spans arrive in a collector: under the right service, with the right parent, and only those to be kept.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::{collections::HashMap, time::Duration};

use telemetry::{Config, context};
use testkit::otlp::{Collector, Span};
use tracing::{Dispatch, dispatcher, info_span};

const SOON: Duration = Duration::from_secs(10);

/// Telemetry of one process, used by whatever runs inside `work`.
async fn traced(config: Config, work: impl FnOnce()) {
    let (dispatch, telemetry) = telemetry::build(&config).unwrap();
    dispatcher::with_default(&dispatch, work);
    telemetry.shutdown(SOON).await;
}

fn config(service: &str, collector: &Collector) -> Config {
    Config { otlp: Some(collector.endpoint()), ..Config::new(service) }
}

fn headers() -> HashMap<String, String> {
    let mut headers = HashMap::new();
    context::inject(&mut |name, value| {
        headers.insert(name.to_owned(), value);
    });
    headers
}

fn find<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name} in {spans:#?}"))
}

#[tokio::test]
async fn each_service_of_a_process_has_its_own_name_and_one_trace_goes_through_all() {
    let collector = Collector::start().await;
    let config = Config { instance: Some("node-1".to_owned()), ..config("vpnd", &collector) };
    traced(config, || {
        let root = info_span!("users.create", otel.kind = "server", vpn.service = "users", user = "alice");
        let carried = root.in_scope(|| {
            info_span!("validate").in_scope(|| tracing::info!("valid"));
            info_span!("append", otel.kind = "producer").in_scope(headers)
        });
        assert!(!carried.contains_key("tracestate"), "{carried:?}");

        let follower = info_span!("keys.issue", otel.kind = "consumer", vpn.service = "keys");
        context::set_parent(&follower, context::extract(|name| carried.get(name).cloned()));
        follower.in_scope(|| info_span!("seal").in_scope(|| {}));

        info_span!("reconcile").in_scope(|| {});
    })
    .await;

    let spans = collector.spans();
    let services: HashMap<_, _> =
        spans.iter().map(|span| (span.name.as_str(), span.service.as_str())).collect();
    let expected = [
        ("users.create", "users"),
        ("validate", "users"),
        ("append", "users"),
        ("keys.issue", "keys"),
        ("seal", "keys"),
        ("reconcile", "vpnd"),
    ];
    assert_eq!(services, HashMap::from(expected));

    let create = find(&spans, "users.create");
    assert_eq!((create.kind.as_str(), &create.parent_id), ("SERVER", &None));
    assert_eq!(create.attributes["user"], "alice");
    assert_eq!(find(&spans, "validate").events, ["valid"]);
    assert_eq!(create.resource["service.instance.id"], "node-1");
    let issue = find(&spans, "keys.issue");
    assert_eq!(issue.trace_id, create.trace_id);
    assert_eq!(issue.parent_id.as_ref(), Some(&find(&spans, "append").span_id));
    assert_eq!(find(&spans, "seal").parent_id.as_ref(), Some(&issue.span_id));
    assert_ne!(find(&spans, "reconcile").trace_id, create.trace_id);
    // What marks a span is for this process and not for the collector.
    for span in &spans {
        assert_eq!(span.trace_state, "");
        assert!(!span.attributes.keys().any(|key| key.starts_with("vpn.")), "{span:?}");
    }
}

#[tokio::test]
async fn the_caller_decides_what_is_kept_unless_a_span_is_marked() {
    let collector = Collector::start().await;
    let given = |flags: &'static str| {
        context::extract(move |name| match name {
            "traceparent" => Some(format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}")),
            "tracestate" => Some("other=1,vpn=somebody".to_owned()),
            _ => None,
        })
    };
    traced(Config { sample_ratio: 0.0, ..config("users", &collector) }, || {
        let child_of = |span: tracing::Span, flags| {
            context::set_parent(&span, given(flags));
            span.in_scope(headers)
        };
        let kept = child_of(info_span!("kept-by-caller"), "01");
        assert_eq!(kept["tracestate"], "other=1");
        let dropped = child_of(info_span!("dropped-by-caller"), "00");
        assert!(dropped["traceparent"].starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{dropped:?}");
        assert!(dropped["traceparent"].ends_with("-00"), "{dropped:?}");
        child_of(info_span!("marked", vpn.sample = "always"), "00");
        info_span!("root").in_scope(|| {});
        info_span!("marked-root", vpn.sample = "always").in_scope(|| info_span!("child").in_scope(|| {}));
    })
    .await;

    let mut names: Vec<_> = collector.spans().into_iter().map(|span| (span.name, span.service)).collect();
    names.sort();
    let expected = ["child", "kept-by-caller", "marked", "marked-root"]
        .map(|name| (name.to_owned(), "users".to_owned()));
    assert_eq!(names, expected);
}

#[tokio::test]
async fn links_lead_to_a_cause_that_is_over() {
    let collector = Collector::start().await;
    let mut cause = HashMap::new();
    traced(config("runtime", &collector), || {
        cause = info_span!("start").in_scope(headers);
        let late = info_span!("container.died");
        context::link(&late, &context::extract(|name| cause.get(name).cloned()));
        late.in_scope(|| {});
    })
    .await;
    let spans = collector.spans();
    let start = find(&spans, "start");
    assert_eq!(find(&spans, "container.died").links, [(start.trace_id.clone(), start.span_id.clone())]);
    assert_ne!(find(&spans, "container.died").trace_id, start.trace_id);
}

#[test]
fn without_a_trace_nothing_is_sent_and_nothing_bad_is_believed() {
    assert_eq!(headers(), HashMap::new());
    let (dispatch, _telemetry) = telemetry::build(&Config::new("users")).unwrap();
    dispatcher::with_default(&dispatch, || {
        assert_eq!(headers(), HashMap::new());
        for bad in ["", "00-", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "zz", "🦀"] {
            let cx = context::extract(|name| (name == "traceparent").then(|| bad.to_owned()));
            assert_eq!(context::trace_id(&cx), None, "{bad}");
        }
        // Without a collector ids are made all the same: they are in the log, and others may have one.
        let id = info_span!("root").in_scope(context::current_trace_id).unwrap();
        assert_eq!(id.len(), 32);
    });
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let refused =
        |config: Config| contract::error::Error::from(telemetry::build(&config).unwrap_err()).to_string();
    let base = || Config::new("users");
    for bad in ["https://127.0.0.1:4317", "127.0.0.1:4317", "", "ftp://x:1", "http://"] {
        let text = refused(Config { otlp: Some(bad.to_owned()), ..base() });
        assert!(text.starts_with("telemetry.setting_invalid: "), "{bad}: {text}");
    }
    assert!(refused(Config { filter: "loud".to_owned(), ..base() }).contains("\"loud\""));
    assert!(refused(Config { sample_ratio: 1.5, ..base() }).contains("1.5"));
    assert!(refused(Config { sample_ratio: f64::NAN, ..base() }).contains("NaN"));
    assert!("xml".parse::<telemetry::LogFormat>().is_err());
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_time() {
    let mut collector = Collector::start().await;
    collector.stop();
    // Somebody who takes connections and never answers holds longer than nobody does.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for endpoint in [collector.endpoint(), format!("http://{}", silent.local_addr().unwrap())] {
        let started = std::time::Instant::now();
        let config = Config { otlp: Some(endpoint.clone()), ..Config::new("users") };
        let (dispatch, telemetry) = telemetry::build(&config).unwrap();
        assert!(started.elapsed() < Duration::from_millis(100), "init took {:?}", started.elapsed());
        let started = std::time::Instant::now();
        many_spans(&dispatch, 10_000);
        assert!(started.elapsed() < Duration::from_secs(1), "10,000 spans took {:?}", started.elapsed());
        let started = std::time::Instant::now();
        telemetry.shutdown(Duration::from_millis(300)).await;
        assert!(
            started.elapsed() < Duration::from_millis(600),
            "{endpoint}: shutdown took {:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn spans_arrive_again_when_the_collector_is_back() {
    let mut collector = Collector::start().await;
    let (dispatch, telemetry) = telemetry::build(&config("users", &collector)).unwrap();
    many_spans(&dispatch, 1);
    collector.wait_for(|spans| (spans.len() == 1).then_some(()), SOON).await;
    collector.restart().await;
    // The old connection is closed, and the first batch over a new one is not lost.
    many_spans(&dispatch, 1);
    collector.wait_for(|spans| (spans.len() == 2).then_some(()), SOON).await;
    telemetry.shutdown(SOON).await;
}

fn many_spans(dispatch: &Dispatch, count: usize) {
    dispatcher::with_default(dispatch, || {
        for number in 0..count {
            info_span!("one", number).in_scope(|| {});
        }
    });
}
