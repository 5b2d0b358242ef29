//! `vpn down`: stops what `vpn up` started, in the order of dependence.

use std::time::Duration;

use contract::{
    Code, Error, NodeName, ServerName,
    fleet::{ListServers, Run, RunServer},
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    LOOK_EVERY,
    place::{Place, Process},
};
use crate::{
    args::up::Down,
    commands::instances::{self, Wanted},
    context::Context,
};

/// A server ends within seconds, its engine by force if need be.
const SERVERS_WITHIN: Duration = Duration::from_secs(15);
/// `vpnd` gives what is under way 5 s, then its bus is stopped.
const PROCESS_WITHIN: Duration = Duration::from_secs(20);

/// What was stopped.
#[derive(Serialize)]
struct Stopped {
    servers: Vec<ServerName>,
    services: bool,
}

pub(crate) async fn down(ctx: &Context, args: Down) -> Result<(), Error> {
    let mut place = Place::open(ctx, args.data.as_deref())?;
    let mut stopped = Stopped { servers: Vec::new(), services: false };
    if let Some(process) = place.running() {
        if !args.keep_servers {
            stopped.servers = stop_servers(ctx, &mut place).await?;
        }
        end(process, "vpnd", &place).await?;
        stopped.services = true;
    }
    // A vpnd that was killed could not take its bus along.
    if let Some(bus) = place.left_bus() {
        end(bus, "nats-server", &place).await?;
        stopped.services = true;
    }
    place.record.process = None;
    place.save()?;
    ctx.output.show(&stopped, |_| {
        let names: Vec<&str> = stopped.servers.iter().map(ServerName::as_str).collect();
        match (stopped.services, names.is_empty()) {
            (false, _) => format!("nothing that `vpn up` started from {} runs", place.folder().display()),
            (true, true) => "stopped   bus and services".to_owned(),
            (true, false) => format!("stopped   {}, bus and services", names.join(", ")),
        }
    })
}

/// Stops the servers of this node, and remembers which they were.
async fn stop_servers(ctx: &Context, place: &mut Place) -> Result<Vec<ServerName>, Error> {
    // The bus is the one that was started, whatever the selected context says by now.
    let there = Context::new(ctx.config.at(&place.record.url), ctx.output.clone());
    let Some(node) = place.record.node.clone() else { return Ok(Vec::new()) };
    match stop_at(&there, node, place).await {
        Ok(names) => Ok(names),
        Err(error) => {
            ctx.output.warn(&format!("VPN servers may go on running here: {}", error.message));
            Ok(Vec::new())
        }
    }
}

async fn stop_at(ctx: &Context, node: NodeName, place: &mut Place) -> Result<Vec<ServerName>, Error> {
    let mut servers = ctx.call(ListServers { node: Some(node) }).await?.servers;
    servers.retain(|server| server.running);
    let names: Vec<ServerName> = servers.iter().map(|server| server.name.clone()).collect();
    // Remembered before the first is stopped: who is interrupted here has all of them back at the next start.
    place.record.stopped.extend(names.iter().cloned());
    place.record.stopped.sort();
    place.record.stopped.dedup();
    place.save()?;
    for name in &names {
        ctx.call(RunServer { name: name.clone(), run: Run::Stop }).await?;
    }
    let deadline = Instant::now() + SERVERS_WITHIN;
    for server in &servers {
        instances::until(ctx, server, Wanted::Stopped, deadline).await?;
    }
    Ok(names)
}

async fn end(process: Process, what: &str, place: &Place) -> Result<(), Error> {
    process.terminate();
    let deadline = Instant::now() + PROCESS_WITHIN;
    while process.is_alive() {
        if Instant::now() >= deadline {
            let message = format!("{what} ({process}) does not end\nlog: {}", place.log().display());
            return Err(Error::new(Code::BUS_TIMEOUT, message)
                .with_hint("Wait for it and repeat `vpn down`, or kill that process."));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}
