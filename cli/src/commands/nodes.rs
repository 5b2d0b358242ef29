//! `vpn nodes`.

use std::net::IpAddr;

use contract::{
    Code, Error, NodeName,
    fleet::{self, AddressSource, Node, Presence},
    runtime::Inspect,
};

use crate::{
    args::Nodes,
    context::Context,
    output::{Cell, Paint, Style, Table},
};

pub(crate) async fn run(ctx: &Context, verb: Nodes) -> Result<(), Error> {
    match verb {
        Nodes::List => {
            let nodes = ctx.call(fleet::ListNodes {}).await?.nodes;
            ctx.output.show(&nodes, |style| list(&nodes, style))
        }
        Nodes::Show { node } => {
            let node = ctx.call(fleet::GetNode { name: node }).await?;
            ctx.output.show(&node, |style| show(&node, style))
        }
        Nodes::Inspect { node } => inspect(ctx, node).await,
    }
}

async fn inspect(ctx: &Context, node: NodeName) -> Result<(), Error> {
    let asked = ctx.call(Inspect { node: node.clone() }).await;
    let report = match asked {
        // Nobody answers for it: one that does not exist gets a better answer than one that is away.
        Err(error) if error.code == Code::BUS_NO_RESPONDERS => {
            ctx.call(fleet::GetNode { name: node.clone() }).await?;
            let hint =
                format!("Start its `vpnd runtime`, or look at its way to the bus: vpn nodes show {node}");
            return Err(Error { message: format!("node {node} does not answer"), ..error }.with_hint(hint));
        }
        asked => asked?,
    };
    ctx.output.show(&report, |style| {
        let mut table = Table::lines();
        for check in &report.checks {
            let (paint, word) = if check.ok { (Paint::Good, "ok") } else { (Paint::Warn, "warn") };
            table.row([check.name.as_str().into(), Cell::painted(paint, word), check.detail.as_str().into()]);
        }
        table.render(style)
    })
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
            backend(node).into(),
            said.cpus.to_string().into(),
            said.version.as_str().into(),
            style.moment(node.joined_at).into(),
        ]);
    }
    table.render(style)
}

fn show(node: &Node, style: &Style) -> String {
    let said = &node.announced;
    let mut table = Table::lines();
    table.row(["node".into(), Cell::painted(Paint::Strong, said.node.as_str())]);
    table.row(["state".into(), presence(node.presence, style)]);
    table.row(["address".into(), address(node).into()]);
    table.row(["backend".into(), backend(node).into()]);
    table.row(["cpus".into(), said.cpus.to_string().into()]);
    table.row(["version".into(), said.version.as_str().into()]);
    table.row(["joined".into(), style.moment(node.joined_at).into()]);
    table.row(["curve key".into(), said.curve_key.as_str().into()]);
    table.render(style)
}

fn presence(presence: Presence, style: &Style) -> Cell {
    match presence {
        Presence::Online => Cell::painted(Paint::Good, "online"),
        Presence::Lost { since } => Cell::painted(Paint::Bad, format!("lost {}", style.moment(since))),
    }
}

/// What runs its servers, in words: most versions begin with the name.
pub(crate) fn backend(node: &Node) -> String {
    let (name, version) = (&node.announced.backend, &node.announced.backend_version);
    let named = version.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    if named { version.clone() } else { format!("{name} {version}") }
}

/// What links carry.
pub(crate) fn address(node: &Node) -> String {
    let address = &node.announced.address;
    match address.source {
        AddressSource::Given => address.host.clone(),
        AddressSource::Detected => format!("{} (detected)", address.host),
    }
}

/// The address in a node's links, where it was detected and no client from elsewhere can reach it.
pub(crate) fn unreachable_address(node: &Node) -> Option<&str> {
    let address = &node.announced.address;
    let private = match address.host.parse().ok()? {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    };
    (private && address.source == AddressSource::Detected).then_some(address.host.as_str())
}
