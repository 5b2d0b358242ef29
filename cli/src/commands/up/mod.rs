//! `vpn up` and `vpn down`: the newcomer's path, and back.
//!
//! - [`place`] the folder it all lives in: who may work on it, what was started from it
//! - [`start`] `vpnd` in the background: found, started, watched until it serves
//! - [`first`] the first server and user
//! - [`down`]  stops what was started

mod down;
mod first;
mod place;
mod start;

use std::{path::PathBuf, time::Duration};

use contract::{
    Code, Error, Protocol,
    fleet::{ListNodes, Node, Run, RunServer},
    keys::{Link, ServerLink},
    runtime::Inspect,
    users::User,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    link,
    nodes::{address, backend, unreachable_address},
    qr::Qr,
    servers::{Shown, state},
    users,
};
use crate::{
    args::up::Up,
    context::Context,
    output::{Paint, Style},
};
use place::Place;

pub(crate) use down::down;

/// Between two looks at what is about to be there.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A node looks at its daemon, programs and rights before it answers.
const NODE_WITHIN: Duration = Duration::from_secs(3);

/// What there is in the end.
#[derive(Serialize)]
struct Everything {
    bus: Bus,
    node: Node,
    server: Shown,
    user: User,
    link: ServerLink,
}

#[derive(Serialize)]
struct Bus {
    url: String,
    version: String,
    /// The folder of what runs in the background; none where the bus was there before.
    data: Option<PathBuf>,
}

/// Each line is printed as soon as it is true, so that whoever waits sees for what.
pub(crate) async fn up(ctx: &Context, args: Up) -> Result<(), Error> {
    let begun = Instant::now();
    let deadline = begun + args.wait;
    let mut place = Place::open(ctx, args.data.as_deref())?;
    let ours = start::services(ctx, &mut place, &args, deadline).await?;
    let bus = ctx.bus().await?;
    let bus = Bus {
        url: bus::config::shown(&ctx.config.bus()?.url),
        version: bus.server_version(),
        data: ours.then(|| place.folder().to_owned()),
    };
    let at = bus.data.as_ref().map(|data| format!(", data in {}", data.display())).unwrap_or_default();
    said(ctx, |_| format!("bus      nats-server {} at {}{at}", bus.version, bus.url))?;

    let node = node(ctx, &place, deadline).await?;
    said(ctx, |_| node_line(&node))?;
    if let Some(host) = unreachable_address(&node) {
        let cure = "behind a NAT, start over with the public one: vpn down && vpn up --address ADDRESS";
        ctx.output.warn(&format!("links carry {host}, which only its own network reaches; {cure}"));
    }
    if ours {
        place.record.node = Some(node.announced.node.clone());
        place.save()?;
    }
    for name in std::mem::take(&mut place.record.stopped) {
        match ctx.call(RunServer { name, run: Run::Start }).await {
            Err(error) if error.code == Code::FLEET_SERVER_NOT_FOUND => {}
            started => drop(started?),
        }
    }
    place.save()?;

    let (server, after) = first::server(ctx, &args, &node, deadline).await?;
    said(ctx, |style| server_line(&server, &node, after, style))?;
    let user = first::user(ctx, args.user).await?;
    said(ctx, |style| format!("user     {}", users::line(&user, style)))?;

    let request = Link { user: user.name.clone(), server: Some(server.server.name.clone()) };
    let link = ctx.call(request).await?.links.into_iter().next();
    let link = link.ok_or_else(|| Error::new(Code::INTERNAL, "a server without a link"))?;
    let drawing = Qr::new(&link.link)?;
    let everything = Everything { bus, node, server, user, link };
    ctx.output.show(&everything, |style| {
        let mut text = link::text(std::slice::from_ref(&everything.link), &[Some(drawing)], style);
        let app = match everything.link.protocol {
            Protocol::Wireguard => "scan it with the WireGuard app",
            Protocol::VlessReality | Protocol::Shadowsocks2022 => {
                "scan it with v2rayNG, Hiddify or Streisand, or paste the link"
            }
        };
        text += &style.paint(Paint::Faint, app);
        text
    })?;
    ctx.started(Some("vpn status, vpn users create NAME, vpn down"));
    Ok(())
}

/// Says a line to people; programs get it all at the end.
fn said(ctx: &Context, line: impl FnOnce(&Style) -> String) -> Result<(), Error> {
    if ctx.output.for_people() { ctx.output.print(&line(&ctx.output.style())) } else { Ok(()) }
}

fn node_line(node: &Node) -> String {
    let (name, cpus) = (&node.announced.node, node.announced.cpus);
    format!("node     {name} ({}, {cpus} cores) at {}", backend(node), address(node))
}

fn server_line(shown: &Shown, node: &Node, after: Option<Duration>, style: &Style) -> String {
    let server = &shown.server;
    let after = after.map(|after| format!(" in {:.1} s", after.as_secs_f64())).unwrap_or_default();
    let at = format!("{}:{}", node.announced.address.host, server.port);
    format!("server   {}   {}   {at}   {}{after}", server.name, server.protocol, state(shown).text(style))
}

/// The node that was used before, else the first that answers: one that was heard a moment ago may be gone.
async fn node(ctx: &Context, place: &Place, deadline: Instant) -> Result<Node, Error> {
    loop {
        let mut nodes = ctx.call(ListNodes {}).await?.nodes;
        nodes.sort_by_key(|node| Some(&node.announced.node) != place.record.node.as_ref());
        let mut last = None;
        for node in nodes {
            let request = Inspect { node: node.announced.node.clone() };
            match ctx.bus().await?.call_within(request, NODE_WITHIN).await {
                Ok(_) => return Ok(node),
                Err(error) => last = Some(error),
            }
        }
        if Instant::now() >= deadline {
            let none = || Error::new(Code::FLEET_NO_NODE, "no node has announced itself");
            return Err(last.unwrap_or_else(none));
        }
        sleep(LOOK_EVERY).await;
    }
}
