//! `vpn nodes`.

use contract::{
    Code, Error,
    fleet::{self, AddressSource, Node, Presence},
    runtime::{Check, Inspect},
};
use serde::Serialize;

use crate::{
    args::Nodes,
    context::Context,
    output::{Cell, Paint, Style, Table},
};

/// A node and what it says of itself when asked; nothing where it does not answer.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    node: Node,
    checks: Option<Vec<Check>>,
}

pub(crate) async fn run(ctx: &Context, verb: Nodes) -> Result<(), Error> {
    match verb {
        Nodes::List => {
            let nodes = ctx.call(fleet::ListNodes {}).await?.nodes;
            ctx.output.show(&nodes, |style| list(&nodes, style))
        }
        Nodes::Show { node } => {
            let node = ctx.call(fleet::GetNode { name: node }).await?;
            let checks = match ctx.call(Inspect { node: node.announced.node.clone() }).await {
                Ok(report) => Some(report.checks),
                Err(error) if error.code == Code::BUS_NO_RESPONDERS || error.code == Code::BUS_TIMEOUT => {
                    None
                }
                Err(error) => return Err(error),
            };
            let shown = Shown { node, checks };
            ctx.output.show(&shown, |style| show(&shown, style))
        }
    }
}

fn list(nodes: &[Node], style: &Style) -> String {
    if nodes.is_empty() {
        return "no nodes: one appears when its `vpnd runtime` connects".to_owned();
    }
    let mut table = Table::new(["NAME", "STATE", "ADDRESS", "BACKEND", "CPUS", "VERSION", "JOINED"]);
    for node in nodes {
        let said = &node.announced;
        table.row([
            said.node.as_str().into(),
            presence(node.presence, style),
            address(node).into(),
            format!("{} {}", said.backend, said.backend_version).into(),
            said.cpus.to_string().into(),
            said.version.as_str().into(),
            style.moment(node.joined_at).into(),
        ]);
    }
    table.render(style)
}

fn show(shown: &Shown, style: &Style) -> String {
    let said = &shown.node.announced;
    let mut table = Table::lines();
    table.row(["node".into(), Cell::painted(Paint::Strong, said.node.as_str())]);
    table.row(["state".into(), presence(shown.node.presence, style)]);
    table.row(["address".into(), address(&shown.node).into()]);
    table.row(["backend".into(), format!("{} {}", said.backend, said.backend_version).into()]);
    table.row(["cpus".into(), said.cpus.to_string().into()]);
    table.row(["version".into(), said.version.as_str().into()]);
    table.row(["joined".into(), style.moment(shown.node.joined_at).into()]);
    match &shown.checks {
        None => table.row(["checks".into(), Cell::painted(Paint::Warn, "the node does not answer")]),
        Some(checks) => checks.iter().for_each(|check| {
            let found = if check.ok { Paint::Good } else { Paint::Bad };
            let word = if check.ok { "ok" } else { "failed" };
            table.row([check.name.as_str().into(), Cell::painted(found, word), check.detail.as_str().into()]);
        }),
    }
    table.render(style)
}

pub(crate) fn presence(presence: Presence, style: &Style) -> Cell {
    match presence {
        Presence::Online => Cell::painted(Paint::Good, "online"),
        Presence::Lost { since } => Cell::painted(Paint::Bad, format!("lost {}", style.moment(since))),
    }
}

fn address(node: &Node) -> String {
    let address = &node.announced.address;
    match address.source {
        AddressSource::Given => address.host.clone(),
        AddressSource::Detected => format!("{} (detected)", address.host),
    }
}
