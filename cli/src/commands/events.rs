//! `vpn events`: what happened to containers, and what happens.

use std::collections::VecDeque;

use bus::{Reader, reader::Position};
use contract::{
    Error, NodeName, ServerName, Timestamp,
    runtime::{ContainerEvent, ContainerEventKind, ContainerEventV1},
};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{
    args::events::Events,
    context::Context,
    output::{Cell, Paint, Style, Table},
};

/// An event as programs see it.
#[derive(Serialize)]
struct Shown {
    at: Timestamp,
    node: NodeName,
    server: ServerName,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    inferred: bool,
}

pub(crate) async fn run(ctx: &Context, args: Events) -> Result<(), Error> {
    let bus = ctx.bus().await?;
    let last = bus.last_of::<ContainerEvent>().await?;
    let mut reader = bus.read::<ContainerEvent>(Position::default());
    let wanted = Wanted::new(args);
    let mut past = VecDeque::new();
    let deadline = Instant::now() + ctx.config.timeout;
    while reader.position().sequence < last {
        // What the stream gives up meanwhile does not come; the rest is worth showing.
        let Ok(events) = timeout_at(deadline, next(&mut reader)).await else { break };
        past.extend(events.into_iter().filter_map(|event| wanted.shown(event)));
        past.drain(..past.len().saturating_sub(wanted.args.tail));
    }
    let past = Vec::from(past);
    if !wanted.args.follow {
        return ctx.output.show(&past, |style| table(&past, style));
    }
    for event in past {
        line(ctx, &event)?;
    }
    loop {
        for event in next(&mut reader).await {
            if let Some(event) = wanted.shown(event) {
                line(ctx, &event)?;
            }
        }
    }
}

async fn next(reader: &mut Reader<ContainerEvent>) -> Vec<ContainerEvent> {
    reader.next().await.into_iter().filter_map(|delivered| delivered.message.ok()).collect()
}

struct Wanted {
    args: Events,
    from_millis: i64,
}

impl Wanted {
    fn new(args: Events) -> Self {
        let since = args.since.map(|since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let from_millis =
            since.map_or(i64::MIN, |since| Timestamp::now().as_millisecond().saturating_sub(since));
        Self { args, from_millis }
    }

    fn shown(&self, event: ContainerEvent) -> Option<Shown> {
        let ContainerEvent::V1(ContainerEventV1 { node, server, kind, at_millis, inferred, .. }) = event;
        let is_wanted = self.args.server.as_ref().is_none_or(|wanted| *wanted == server)
            && self.args.node.as_ref().is_none_or(|wanted| *wanted == node)
            && at_millis >= self.from_millis;
        let exit_code = match kind {
            ContainerEventKind::Exited(code) => Some(code),
            _ => None,
        };
        let at = Timestamp::from_millisecond(at_millis).ok().filter(|_| is_wanted)?;
        Some(Shown { at, node, server, what: kind.as_str(), exit_code, inferred })
    }
}

fn table(events: &[Shown], style: &Style) -> String {
    if events.is_empty() {
        return "nothing happened".to_owned();
    }
    let mut table = Table::new(["WHEN", "NODE", "SERVER", "WHAT"]);
    for event in events {
        table.row([
            style.moment(event.at).into(),
            event.node.as_str().into(),
            event.server.as_str().into(),
            Cell::painted(paint(event), what(event)),
        ]);
    }
    table.render(style)
}

/// One as it comes: a line for people, a line of JSON for programs.
fn line(ctx: &Context, event: &Shown) -> Result<(), Error> {
    if !ctx.output.for_people() {
        let text = serde_json::to_string(event);
        return ctx
            .output
            .print(&text.map_err(|error| Error::new(contract::Code::INTERNAL, error.to_string()))?);
    }
    let what = ctx.output.style().paint(paint(event), &what(event));
    let at = event.at.strftime("%Y-%m-%dT%H:%M:%SZ");
    ctx.output.print(&format!("{at}  {}  {}  {what}", event.node, event.server))
}

fn what(event: &Shown) -> String {
    let code = match event.exit_code {
        // Its end was seen, but not its code.
        Some(-1) => ", nobody knows how".to_owned(),
        Some(code) if code > 128 => format!(" by signal {}", code - 128),
        Some(code) => format!(" with code {code}"),
        None => String::new(),
    };
    let inferred = if event.inferred { " (found out afterwards)" } else { "" };
    format!("{}{code}{inferred}", event.what)
}

fn paint(event: &Shown) -> Paint {
    match event.exit_code {
        Some(0) | None => Paint::Plain,
        Some(_) => Paint::Bad,
    }
}
