//! `vpn servers`.

use std::io::{self, Write};

use contract::{
    Code, Error, Port, Protocol, ServerName,
    fleet::{self, CreateServer, Run, RunServer, Server, UpdateServer},
    runtime::{Instance, InstanceState},
};
use serde::Serialize;
use tokio::time::Instant;

use super::instances::{self, Wanted};
use crate::{
    args::servers::{self as args, Create, Update, Verb},
    context::Context,
    output::{Cell, Paint, Style, Table, bytes},
};

/// A server and what runs for it; nothing where no node says.
#[derive(Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    pub(crate) server: Server,
    pub(crate) instance: Option<Instance>,
}

pub(crate) async fn run(ctx: &Context, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Create(args) => create(ctx, args).await,
        Verb::List { node } => {
            let servers = ctx.call(fleet::ListServers { node }).await?.servers;
            let servers = with_instances(ctx, servers).await;
            ctx.output.show(&servers, |style| list(&servers, style))
        }
        Verb::Show { name } => {
            let server = ctx.call(fleet::GetServer { name }).await?;
            let shown = Shown { instance: instances::of(ctx, &server).await.ok().flatten(), server };
            ctx.output.show(&shown, |style| show(&shown, style))
        }
        Verb::Update(args) => update(ctx, args).await,
        Verb::Start(args) => run_server(ctx, args, Run::Start).await,
        Verb::Stop(args) => run_server(ctx, args, Run::Stop).await,
        Verb::Restart(args) => run_server(ctx, args, Run::Restart).await,
        Verb::Delete { name, yes } => delete(ctx, name, yes).await,
    }
}

async fn create(ctx: &Context, args: Create) -> Result<(), Error> {
    let request = CreateServer {
        name: args.name,
        protocol: args.protocol,
        port: args.port.map_or_else(|| usual_port(args.protocol), Ok)?,
        node: args.node,
        image: args.image,
        reality: reality(args.reality, None)?,
        resources: resources(&args.resources, None),
        allow_private: args.allow_private,
    };
    let reply = ctx.call(request).await?;
    reply.warnings.iter().for_each(|warning| ctx.output.warn(warning));
    tell(ctx, reply.server, args.wait.then_some(Wanted::Running { after: None })).await
}

async fn update(ctx: &Context, args: Update) -> Result<(), Error> {
    let before = ctx.call(fleet::GetServer { name: args.name.clone() }).await?;
    let replaced = !args.allow_private.is_empty() || args.no_allow_private;
    let request = UpdateServer {
        name: args.name,
        port: args.port,
        image: args.image,
        reality: reality(args.reality, before.reality)?,
        resources: resources(&args.resources, Some(before.resources)),
        allow_private: replaced.then_some(args.allow_private),
    };
    let reply = ctx.call(request).await?;
    reply.warnings.iter().for_each(|warning| ctx.output.warn(warning));
    tell(ctx, reply.server, None).await
}

async fn run_server(ctx: &Context, args: args::Run, run: Run) -> Result<(), Error> {
    let before = match (run, args.wait) {
        // A restarted instance has another beginning than the one that runs now.
        (Run::Restart, true) => {
            let server = ctx.call(fleet::GetServer { name: args.name.clone() }).await?;
            instances::of(ctx, &server).await?.map(|instance| instance.since)
        }
        _ => None,
    };
    let server = ctx.call(RunServer { name: args.name, run }).await?;
    let wanted = match run {
        Run::Stop => Wanted::Stopped,
        Run::Start | Run::Restart => Wanted::Running { after: before },
    };
    tell(ctx, server, args.wait.then_some(wanted)).await
}

async fn delete(ctx: &Context, name: ServerName, yes: bool) -> Result<(), Error> {
    if !yes && !ask(ctx, &format!("Delete {name}? Its connections end and its links are void. [y/N] "))? {
        return Err(Error::new(Code::CLI_USAGE, format!("server {name} stays: nobody said yes"))
            .with_hint("give --yes"));
    }
    let server = ctx.call(fleet::DeleteServer { name }).await?;
    ctx.output.show(&server, |_| format!("{}   deleted", server.name))?;
    ctx.started(None);
    Ok(())
}

/// A script cannot be asked, so it has not said yes.
fn ask(ctx: &Context, question: &str) -> Result<bool, Error> {
    if !ctx.output.is_interactive() {
        return Ok(false);
    }
    let unheard = |error: io::Error| Error::new(Code::CLI_FILE, format!("the terminal: {error}"));
    let mut out = io::stderr().lock();
    out.write_all(question.as_bytes()).and_then(|()| out.flush()).map_err(unheard)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(unheard)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Prints the server as it is, after it has become as wanted where that is waited for.
async fn tell(ctx: &Context, server: Server, wait: Option<Wanted>) -> Result<(), Error> {
    let begun = Instant::now();
    let instance = match wait {
        None => instances::of(ctx, &server).await.ok().flatten(),
        Some(wanted) => instances::until(ctx, &server, wanted, begun + ctx.config.timeout.max(START_WITHIN))
            .await
            .inspect_err(|_| ctx.started(None))?,
    };
    let shown = Shown { server, instance };
    ctx.output.show(&shown, |style| {
        let mut table = Table::lines();
        table.row([
            Cell::painted(Paint::Strong, shown.server.name.as_str()),
            shown.server.protocol.as_str().into(),
            format!("{}:{}", shown.server.node, shown.server.port).into(),
            state(&shown),
            wait.map(|_| format!("after {:.1} s", begun.elapsed().as_secs_f32())).unwrap_or_default().into(),
        ]);
        table.render(style)
    })?;
    ctx.started(None);
    Ok(())
}

/// An image may have to be fetched first.
const START_WITHIN: std::time::Duration = std::time::Duration::from_secs(60);

/// The port that people expect of a protocol: HTTPS's, since REALITY pretends to be a site, and the customary ones.
pub(crate) fn usual_port(protocol: Protocol) -> Result<Port, Error> {
    let number: u64 = match protocol {
        Protocol::VlessReality => 443,
        Protocol::Shadowsocks2022 => 8_388,
        Protocol::Wireguard => 51_820,
    };
    Ok(number.try_into()?)
}

/// What REALITY is to pretend; the names follow the dest where none are given.
fn reality(args: args::Reality, before: Option<fleet::Reality>) -> Result<Option<fleet::Reality>, Error> {
    let names = args.server_names;
    match (args.dest, before) {
        (None, _) if names.is_empty() => Ok(None),
        (Some(dest), _) if names.is_empty() => {
            Ok(Some(fleet::Reality { server_names: vec![dest.host().to_owned()], dest }))
        }
        (Some(dest), _) => Ok(Some(fleet::Reality { dest, server_names: names })),
        (None, Some(before)) => Ok(Some(fleet::Reality { server_names: names, ..before })),
        (None, None) => Err(Error::new(Code::CLI_USAGE, "--server-name is given without --dest")
            .with_hint("give --dest HOST:PORT: the site that has these names")),
    }
}

fn resources(args: &args::Resources, before: Option<fleet::Resources>) -> Option<fleet::Resources> {
    let usual = before.unwrap_or_default();
    (args.memory.is_some() || args.pids.is_some()).then(|| fleet::Resources {
        memory: args.memory.unwrap_or(usual.memory),
        pids: args.pids.unwrap_or(usual.pids),
    })
}

/// Servers with what runs for them; where no node answers they are shown without.
pub(crate) async fn with_instances(ctx: &Context, servers: Vec<Server>) -> Vec<Shown> {
    let instances = instances::all(ctx).await.unwrap_or_default();
    let find =
        |server: &Server| instances.iter().find(|instance| instances::belongs(instance, server)).cloned();
    servers.into_iter().map(|server| Shown { instance: find(&server), server }).collect()
}

fn list(servers: &[Shown], style: &Style) -> String {
    if servers.is_empty() {
        return "no servers: vpn servers create NAME --protocol PROTOCOL".to_owned();
    }
    let mut table = Table::new(["NAME", "PROTOCOL", "NODE", "PORT", "STATE", "SINCE"]);
    for shown in servers {
        table.row([
            shown.server.name.as_str().into(),
            shown.server.protocol.as_str().into(),
            shown.server.node.as_str().into(),
            shown.server.port.to_string().into(),
            state(shown),
            shown.instance.as_ref().map(|instance| style.moment(instance.since)).unwrap_or_default().into(),
        ]);
    }
    table.render(style)
}

fn show(shown: &Shown, style: &Style) -> String {
    let server = &shown.server;
    let mut table = Table::lines();
    table.row(["server".into(), Cell::painted(Paint::Strong, server.name.as_str())]);
    table.row(["protocol".into(), server.protocol.as_str().into()]);
    table.row(["node".into(), server.node.as_str().into()]);
    table.row(["port".into(), server.port.to_string().into()]);
    table.row(["state".into(), state(shown)]);
    if let Some(instance) = &shown.instance {
        table.row(["since".into(), style.moment(instance.since).into()]);
        table.row(["backend".into(), instance.backend.as_str().into()]);
        if let InstanceState::Failed { error } = &instance.state {
            table.row(["why".into(), error.message.as_str().into()]);
            table.row(["help".into(), error.hint.as_str().into()]);
        }
    }
    if let Some(image) = &server.image {
        table.row(["image".into(), image.as_str().into()]);
    }
    if let Some(reality) = &server.reality {
        table.row(["dest".into(), reality.dest.to_string().into()]);
        table.row(["names".into(), reality.server_names.join(" ").into()]);
    }
    table.row(["memory".into(), bytes(server.resources.memory).into()]);
    table.row(["pids".into(), server.resources.pids.to_string().into()]);
    if !server.allow_private.is_empty() {
        let ranges: Vec<String> = server.allow_private.iter().map(ToString::to_string).collect();
        table.row(["reaches".into(), ranges.join(" ").into()]);
    }
    table.row(["created".into(), style.moment(server.created_at).into()]);
    table.row(["changed".into(), style.moment(server.updated_at).into()]);
    table.render(style)
}

/// What runs, next to what should.
pub(crate) fn state(shown: &Shown) -> Cell {
    let running = shown.server.running;
    match shown.instance.as_ref().map(|instance| &instance.state) {
        None if running => Cell::painted(Paint::Warn, "starting"),
        None => Cell::painted(Paint::Faint, "stopped"),
        Some(InstanceState::Running) if !running => Cell::painted(Paint::Warn, "stopping"),
        Some(InstanceState::Stopped) if running => Cell::painted(Paint::Warn, "starting"),
        Some(InstanceState::Failed { error }) => Cell::painted(Paint::Bad, format!("failed: {}", error.code)),
        Some(state @ InstanceState::Running) => Cell::painted(Paint::Good, state.as_str()),
        Some(state @ InstanceState::Starting) => Cell::painted(Paint::Warn, state.as_str()),
        Some(state @ InstanceState::Stopped) => Cell::painted(Paint::Faint, state.as_str()),
    }
}
