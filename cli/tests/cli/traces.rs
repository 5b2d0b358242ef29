use testkit::{otlp::Collector, wait::eventually};

use crate::world::{SOON, Vpn, World};

#[tokio::test(flavor = "multi_thread")]
async fn several_commands_make_one_trace_where_asked() {
    let world = World::start().await;
    let collector = Collector::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let vpn = Vpn::new(&world.nats.url())
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
        .with("TRACEPARENT", &format!("00-{trace}-00f067aa0ba902b7-01"));
    let created = vpn.run(["users", "create", "alice"]);
    assert!(created.err.contains(&format!("trace {trace}")), "{created:?}");
    let refused = vpn.run(["users", "create", "alice"]);
    assert!(refused.err.ends_with(&format!("trace: {trace}\n")), "{refused:?}");
    let spans = eventually("both commands and their calls arrive", SOON, async || {
        let spans = collector.spans();
        let ours = spans.iter().filter(|span| span.service == "vpn").count();
        (ours >= 4).then_some(spans)
    })
    .await;
    assert!(spans.iter().all(|span| span.trace_id == trace), "{spans:#?}");
    let commands: Vec<_> = spans.iter().filter(|span| span.name == "vpn users create").collect();
    assert_eq!(commands.len(), 2);
    assert!(
        commands.iter().all(|span| span.parent_id.as_deref() == Some("00f067aa0ba902b7")),
        "{commands:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_little() {
    let world = World::start().await;
    let vpn = Vpn::new(&world.nats.url()).with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let begun = std::time::Instant::now();
    vpn.ok("users list");
    assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    let wrong = Vpn::new(&world.nats.url()).with("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere");
    assert_eq!(wrong.refused("users list", 1), "telemetry.setting_invalid");
}
