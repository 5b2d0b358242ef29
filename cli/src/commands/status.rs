//! `vpn status`: what runs, in a few lines.

use std::time::{Duration, Instant};

use contract::{
    Error, Request,
    fleet::{ListNodes, ListServers, Presence},
    keys,
    runtime::{InstanceState, ListInstances},
    stats, users,
};
use serde::Serialize;

use crate::{
    context::{Context, Exit},
    output::{Cell, Paint, Table},
};

/// A service that is well answers within milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// One part of the system.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    /// How long the answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) millis: Option<f64>,
    /// What it has to say, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Error>,
}

impl Part {
    fn new(name: &'static str, begun: Instant, answer: Result<String, Error>) -> Self {
        let millis = answer.is_ok().then(|| begun.elapsed().as_secs_f64() * 1_000.0);
        let (summary, error) = match answer {
            Ok(summary) => (Some(summary), None),
            Err(error) => (None, Some(error)),
        };
        Self { name, millis, summary, error }
    }
}

pub(crate) async fn run(ctx: &Context) -> Result<Exit, Error> {
    let mut parts = vec![bus(ctx).await?];
    parts.extend(services(ctx).await);
    ctx.output.show(&parts, |style| {
        let mut table = Table::lines();
        for part in &parts {
            let (state, said) = match &part.error {
                None => (Cell::painted(Paint::Good, "up"), part.summary.clone().unwrap_or_default()),
                Some(error) => {
                    (Cell::painted(Paint::Bad, "down"), format!("{}: {}", error.code, error.message))
                }
            };
            let took = part.millis.map(|millis| format!("{millis:.1} ms")).unwrap_or_default();
            table.row([part.name.into(), state, took.into(), said.into()]);
        }
        table.render(style)
    })?;
    let well = parts.iter().all(|part| part.error.is_none());
    if !well {
        ctx.output.aside("next: vpn doctor");
    }
    Ok(if well { Exit::Done } else { Exit::Unwell })
}

async fn bus(ctx: &Context) -> Result<Part, Error> {
    let url = ctx.config.bus()?.url;
    let bus = ctx.bus().await?;
    let begun = Instant::now();
    bus.flush().await;
    let url = bus::config::shown(&url);
    Ok(Part::new("bus", begun, Ok(format!("nats-server {} at {url}", bus.server_version()))))
}

/// Each service, asked at the same time.
pub(crate) async fn services(ctx: &Context) -> [Part; 5] {
    tokio::join!(users(ctx), keys(ctx), fleet(ctx), runtime(ctx), stats(ctx)).into()
}

async fn ask<R: Request>(ctx: &Context, request: R) -> Result<R::Reply, Error> {
    ctx.bus().await?.call_within(request, ctx.config.timeout.min(ANSWER_WITHIN)).await
}

async fn users(ctx: &Context) -> Part {
    let begun = Instant::now();
    let one = users::List { limit: Some(1), ..users::List::default() };
    Part::new("users", begun, ask(ctx, one).await.map(|page| several(page.total, "user")))
}

async fn keys(ctx: &Context) -> Part {
    let begun = Instant::now();
    let answer = ask(ctx, keys::Status {}).await;
    Part::new(
        "keys",
        begun,
        answer.map(|keys| {
            let (users, servers) = (several(keys.users, "user"), several(keys.servers, "server"));
            format!("keys of {users} and {servers}, opened at {}", several(keys.nodes, "node"))
        }),
    )
}

async fn fleet(ctx: &Context) -> Part {
    let begun = Instant::now();
    let answer = async {
        let nodes = ask(ctx, ListNodes {}).await?.nodes;
        let servers = ask(ctx, ListServers { node: None }).await?.servers;
        let online = nodes.iter().filter(|node| node.presence == Presence::Online).count();
        let wanted = servers.iter().filter(|server| server.running).count();
        let (nodes, servers) = (several(nodes.len() as u64, "node"), several(servers.len() as u64, "server"));
        Ok(format!("{nodes}, {online} online; {servers}, {wanted} to run"))
    };
    Part::new("fleet", begun, answer.await)
}

async fn stats(ctx: &Context) -> Part {
    let begun = Instant::now();
    let top = stats::Top { limit: Some(1), ..stats::Top::default() };
    let answer = ask(ctx, top).await;
    Part::new("stats", begun, answer.map(|top| format!("traffic of {}", several(top.total, "user"))))
}

async fn runtime(ctx: &Context) -> Part {
    let begun = Instant::now();
    let answer = ask(ctx, ListInstances {}).await;
    Part::new(
        "runtime",
        begun,
        answer.map(|found| {
            let count =
                |is: fn(&InstanceState) -> bool| found.instances.iter().filter(|one| is(&one.state)).count();
            let running = count(|state| matches!(state, InstanceState::Running));
            let all = several(found.instances.len() as u64, "instance");
            match count(|state| matches!(state, InstanceState::Failed { .. })) {
                0 => format!("{all}, {running} running"),
                failed => format!("{all}, {running} running, {failed} failed"),
            }
        }),
    )
}

/// `1 user`, `2 users`.
fn several(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
