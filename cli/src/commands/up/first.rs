//! The first server and the first user: what is there already is left as it is.

use std::time::Duration;

use contract::{
    Code, Error, HostPort, NodeName, Protocol, ServerName, UserName,
    fleet::{CreateServer, GetServer, ListServers, Node, Reality, Run, RunServer, Server},
    runtime::{InstanceState, ProbeDest},
    users::{Create, Get, User},
};
use tokio::time::Instant;

use crate::{
    args::up::Up,
    commands::{
        instances::{self, Wanted},
        servers::{Shown, usual_port},
    },
    context::Context,
};

/// A site of TLS 1.3 and X25519 that is reached from nearly everywhere, under its own name.
const DEST: &str = "www.microsoft.com:443";
/// Whose link the newcomer scans.
const USER: &str = "me";

/// The server, running, and how long that took where it did not run before.
pub(super) async fn server(
    ctx: &Context,
    args: &Up,
    node: &Node,
    deadline: Instant,
) -> Result<(Shown, Option<Duration>), Error> {
    let begun = Instant::now();
    let (server, new) = match wanted(ctx, args, node).await? {
        Wish::Is(server) => (*server, false),
        Wish::Create(request) => {
            let reply = ctx.call(*request).await?;
            reply.warnings.iter().for_each(|warning| ctx.output.warn(warning));
            (reply.server, true)
        }
    };
    let before = instances::of(ctx, &server).await?;
    let ran = before.is_some_and(|instance| instance.state == InstanceState::Running);
    let server = match server.running {
        true => server,
        false => ctx.call(RunServer { name: server.name, run: Run::Start }).await?,
    };
    let instance = instances::until(ctx, &server, Wanted::Running { after: None }, deadline).await?;
    Ok((Shown { server, instance }, (new || !ran).then(|| begun.elapsed())))
}

/// What comes of the options.
enum Wish {
    /// It is there.
    Is(Box<Server>),
    /// It is to be made.
    Create(Box<CreateServer>),
}

/// The server that is asked for; where none is, the first one, of this node before others.
async fn wanted(ctx: &Context, args: &Up, node: &Node) -> Result<Wish, Error> {
    let anything =
        args.server.is_none() && args.server_protocol.is_none() && args.port.is_none() && args.dest.is_none();
    if anything {
        let mut servers = ctx.call(ListServers::default()).await?.servers;
        servers.sort_by_key(|server| (server.node != node.announced.node, !server.running));
        if let Some(server) = servers.into_iter().next() {
            return Ok(Wish::Is(Box::new(server)));
        }
    }
    let mut protocol = args.server_protocol.unwrap_or(Protocol::VlessReality);
    if let Some(server) = get(ctx, name(args, protocol)?).await? {
        return Ok(Wish::Is(Box::new(server)));
    }
    let mut reality = None;
    if protocol == Protocol::VlessReality {
        let site = site(args)?;
        match probe(ctx, &node.announced.node, &site).await {
            // REALITY cannot work without its dest; where nobody has asked for it, something else will do.
            Err(error) if args.server_protocol.is_none() && args.dest.is_none() => {
                protocol = Protocol::Shadowsocks2022;
                ctx.output.warn(&format!(
                    "{}; vless-reality needs such a site, so the first server is a {protocol}. With a site that \
                     this machine reaches: vpn up --dest HOST:PORT",
                    error.message
                ));
                if let Some(server) = get(ctx, name(args, protocol)?).await? {
                    return Ok(Wish::Is(Box::new(server)));
                }
            }
            // What was asked for is created; fleet looks again and says what is wrong with it.
            _ => reality = Some(site),
        }
    }
    Ok(Wish::Create(Box::new(CreateServer {
        name: name(args, protocol)?,
        protocol,
        port: args.port.map_or_else(|| usual_port(protocol), Ok)?,
        node: Some(node.announced.node.clone()),
        image: None,
        reality,
        resources: None,
        allow_private: args.allow_private.clone(),
    })))
}

async fn get(ctx: &Context, name: ServerName) -> Result<Option<Server>, Error> {
    match ctx.call(GetServer { name }).await {
        Ok(server) => Ok(Some(server)),
        Err(error) if error.code == Code::FLEET_SERVER_NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

async fn probe(ctx: &Context, node: &NodeName, site: &Reality) -> Result<(), Error> {
    let server_name = site.server_names.first().cloned().unwrap_or_default();
    ctx.call(ProbeDest { node: node.clone(), dest: site.dest.clone(), server_name }).await.map(drop)
}

fn name(args: &Up, protocol: Protocol) -> Result<ServerName, Error> {
    if let Some(name) = &args.server {
        return Ok(name.clone());
    }
    let short = match protocol {
        Protocol::VlessReality => "reality",
        Protocol::Shadowsocks2022 => "ss",
        Protocol::Wireguard => "wg",
    };
    let port = args.port.map_or_else(|| usual_port(protocol), Ok)?;
    Ok(format!("{short}-{port}").parse()?)
}

fn site(args: &Up) -> Result<Reality, Error> {
    let dest: HostPort = args.dest.clone().map_or_else(|| DEST.parse(), Ok)?;
    let name = args.server_name.clone().unwrap_or_else(|| dest.host().to_owned());
    Ok(Reality { dest, server_names: vec![name] })
}

/// The user of that name, created where it is missing.
pub(super) async fn user(ctx: &Context, name: Option<UserName>) -> Result<User, Error> {
    let name = name.map_or_else(|| USER.parse(), Ok)?;
    match ctx.call(Get { name: name.clone() }).await {
        Err(error) if error.code == Code::USERS_NOT_FOUND => ctx.call(Create::named(name)).await,
        there => there,
    }
}
