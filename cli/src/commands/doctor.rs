//! `vpn doctor`: looks at every part, and says the cure of what is wrong.

use std::time::Duration;

use bus::Bus;
use contract::{
    Error, State, Timestamp,
    fleet::{ListNodes, ListServers, Node, Presence},
    runtime::{Inspect, InstanceState},
    users::User,
};
use serde::Serialize;

use super::{instances, nodes::unreachable_address, status};
use crate::{
    context::{Context, Exit},
    output::{Cell, Paint, Style, Table},
};

/// A node looks at its daemon, programs and rights for this.
const INSPECT_WITHIN: Duration = Duration::from_secs(5);
/// Clocks may differ so much: Shadowsocks 2022 refuses 30 s (SIP022), and expiry is meant to the second.
const CLOCKS_DIFFER: f64 = 5.0;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// It works, and may not go on doing so.
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    name: String,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl Finding {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Ok, found: found.into(), cure: None }
    }

    fn warning(name: impl Into<String>, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Warn, found: found.into(), cure: Some(cure.into()) }
    }

    fn failed(name: impl Into<String>, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Fail, found: found.into(), cure: Some(cure.into()) }
    }

    fn error(name: impl Into<String>, error: &Error) -> Self {
        Self::failed(name, format!("{}: {}", error.code, error.message), &error.hint)
    }
}

pub(crate) async fn run(ctx: &Context) -> Result<Exit, Error> {
    let findings = look(ctx).await?;
    ctx.output.show(&findings, |style| text(&findings, style))?;
    let well = findings.iter().all(|finding| finding.verdict != Verdict::Fail);
    Ok(if well { Exit::Done } else { Exit::Unwell })
}

/// In the order of dependence: what stands further up explains what stands below.
async fn look(ctx: &Context) -> Result<Vec<Finding>, Error> {
    let url = bus::config::shown(&ctx.config.bus()?.url);
    let bus = match ctx.bus().await {
        Ok(bus) => bus,
        Err(error) => return Ok(vec![Finding::error("bus", &error)]),
    };
    let mut findings = vec![
        Finding::ok("bus", format!("nats-server {} at {url}", bus.server_version())),
        Finding::ok("jetstream", "answers"),
    ];
    findings.extend(clock(bus).await);
    for part in status::services(ctx).await {
        findings.push(match (&part.error, part.summary) {
            (Some(error), _) => Finding::error(part.name, error),
            (None, said) => Finding::ok(part.name, said.unwrap_or_default()),
        });
    }
    // Where fleet does not answer, that has been said.
    let nodes = ctx.call(ListNodes {}).await.map(|answer| answer.nodes).unwrap_or_default();
    for node in &nodes {
        inspect(ctx, node, &mut findings).await;
    }
    if nodes.is_empty() && findings.iter().all(|finding| finding.verdict != Verdict::Fail) {
        findings.push(Finding::failed(
            "nodes",
            "there is none",
            "Start `vpnd runtime` on a host, or `vpnd all`.",
        ));
    }
    servers(ctx, &mut findings).await;
    Ok(findings)
}

/// None where nothing was ever stored: then the bus has not said what time it has.
async fn clock(bus: &Bus) -> Option<Finding> {
    let before = Timestamp::now();
    match bus.server_time(User::BUCKET).await {
        Err(error) => Some(Finding::error("clock", &error)),
        Ok(theirs) => {
            let theirs = theirs?;
            let now = Timestamp::now();
            let ours = (before.as_millisecond() + now.as_millisecond()) / 2;
            let ahead = (theirs.as_millisecond() - ours) as f64 / 1_000.0;
            let found = format!(
                "the bus's is {:.1} s {} ours",
                ahead.abs(),
                if ahead < 0.0 { "behind" } else { "ahead of" }
            );
            Some(match ahead.abs() <= CLOCKS_DIFFER {
                true => Finding::ok("clock", found),
                false => Finding::warning("clock", found, "Set the clocks of both machines by NTP."),
            })
        }
    }
}

async fn inspect(ctx: &Context, node: &Node, findings: &mut Vec<Finding>) {
    let name = &node.announced.node;
    if let Presence::Lost { since } = node.presence {
        let found = format!("not heard since {since}; its servers go on with what they know");
        findings.push(Finding::failed(
            format!("node {name}"),
            found,
            "Start its `vpnd runtime`, or look at its way to the bus.",
        ));
        return;
    }
    if let Some(host) = unreachable_address(node) {
        let found = format!("links carry {host}, which only its own network reaches");
        let cure = "Start the node with the address that clients see: --address PUBLIC-NAME-OR-ADDRESS.";
        findings.push(Finding::warning(format!("node {name}"), found, cure));
    }
    let asked = match ctx.bus().await {
        Ok(bus) => bus.call_within(Inspect { node: name.clone() }, INSPECT_WITHIN).await,
        Err(error) => Err(error),
    };
    match asked {
        Err(error) => findings.push(Finding::error(format!("node {name}"), &error)),
        Ok(report) => findings.extend(report.checks.into_iter().map(|check| Finding {
            verdict: match check.ok {
                true => Verdict::Ok,
                // Without its backend a node runs nothing. The rest concerns who needs it, and shows there.
                false if check.name == node.announced.backend => Verdict::Fail,
                false => Verdict::Warn,
            },
            name: format!("node {name}: {}", check.name),
            // A node says the cure with what it found.
            found: check.detail,
            cure: None,
        })),
    }
}

async fn servers(ctx: &Context, findings: &mut Vec<Finding>) {
    let (Ok(answer), Ok(instances)) = (ctx.call(ListServers { node: None }).await, instances::all(ctx).await)
    else {
        return;
    };
    for server in answer.servers.iter().filter(|server| server.running) {
        let name = format!("server {}", server.name);
        let instance = instances.iter().find(|instance| instances::belongs(instance, server));
        findings.push(match instance.map(|instance| &instance.state) {
            Some(InstanceState::Running) => Finding::ok(name, format!("runs on {}", server.node)),
            Some(InstanceState::Failed { error }) => Finding::error(name, error),
            Some(state @ InstanceState::Starting) => {
                let cure = format!("Wait a moment; then see the log of node {}.", server.node);
                Finding::warning(name, format!("is {}", state.as_str()), cure)
            }
            Some(state) => {
                let cure = format!("See the log of node {}.", server.node);
                Finding::failed(name, format!("is {} and should run", state.as_str()), cure)
            }
            None => {
                let cure = format!("See whether node {} is online, and its log.", server.node);
                Finding::failed(name, "nothing runs for it", cure)
            }
        });
    }
}

fn text(findings: &[Finding], style: &Style) -> String {
    let mut table = Table::lines();
    for finding in findings {
        let (paint, word) = match finding.verdict {
            Verdict::Ok => (Paint::Good, "ok"),
            Verdict::Warn => (Paint::Warn, "warn"),
            Verdict::Fail => (Paint::Bad, "fail"),
        };
        table.row([finding.name.as_str().into(), Cell::painted(paint, word), finding.found.as_str().into()]);
        if let Some(cure) = finding.cure.as_deref().filter(|cure| !cure.is_empty()) {
            table.row(["".into(), "".into(), Cell::painted(Paint::Strong, cure)]);
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let last = match (count(Verdict::Fail), count(Verdict::Warn)) {
        (0, 0) => style.paint(Paint::Good, "all is well"),
        (0, warned) => style.paint(Paint::Warn, &format!("it works; {warned} to look at")),
        (failed, _) => style.paint(Paint::Bad, &format!("{failed} of {} failed", findings.len())),
    };
    table.render(style) + &last
}
