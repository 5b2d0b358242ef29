//! The node agent: what the fleet wants on this node becomes containers, and the users' credentials reach
//! the engines in them.
//!
//! - [`agent`]    what is wanted, folded from the bus: an order for each instance, a roster for each protocol
//!   - [`watches`]  what it follows there
//!   - [`desired`]  what is wanted, as a value
//!   - [`saved`]    and on disk, for when the bus is away
//!   - [`opener`]   opens what is sealed to this node
//! - [`workers`]  one for each instance, and what wakes them
//!   - [`mailbox`]  what the agent tells a worker
//!   - [`instance`] the worker: compare, plan, act; users in and out
//!   - [`plan`]     pure: what leads from what runs to what should run
//!   - [`pace`]     how soon a failed instance is tried again
//! - [`backend`]  the trait [`backend::ContainerRuntime`] and what is behind it: Docker, child processes
//! - [`engine`]   the trait [`engine::Engine`] and what is behind it: Xray, WireGuard
//!   - [`netns`]    work in an instance's network namespace
//!   - [`sockets`]  ending other programs' connections
//! - [`usage`]    what users send and receive, counted exactly once
//! - [`events`]   what happens to containers, told once
//! - [`handlers`] what can be asked of a node: one verb, one file
//! - [`announce`] the agent says that it is there
//! - [`reports`]  what it says of its instances
//! - [`address`]  where it is
//! - [`config`]   what it is told

mod address;
mod agent;
mod announce;
pub mod backend;
pub mod config;
mod desired;
pub mod engine;
mod events;
mod handlers;
mod instance;
mod mailbox;
pub mod netns;
mod opener;
mod pace;
mod plan;
mod reports;
mod saved;
pub mod sockets;
mod usage;
mod watches;
mod workers;

use std::{net::IpAddr, pin::pin, sync::Arc};

use agent::Agent;
use backend::{
    ContainerRuntime,
    detect::{Chosen, choose},
    docker, process,
};
use bus::{Bus, Shutdown, View};
use config::BUS_WITHIN;
pub use config::Config;
use contract::{Code, Error, fleet::PublicAddress, runtime::Instance};
use engine::{Engine, EngineServer};
use events::Events;
use reports::Reports;
use saved::Saved;
use seal::CurveKey;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use usage::Meter;
use workers::Workers;

/// The node's own key, in the state directory.
const KEY_FILE: &str = "node.key";

/// What the agent's parts need.
struct Ctx {
    config: Config,
    backend: Arc<dyn ContainerRuntime>,
    /// Why it is this one.
    because: String,
    address: PublicAddress,
    own_addresses: Vec<IpAddr>,
    reports: Reports,
    meter: Meter,
    events: Events,
    /// What makes engines; another one in tests.
    engines: Box<Engines>,
}

type Engines = dyn Fn(&Ctx, &EngineServer) -> Arc<dyn Engine> + Send + Sync;

/// What handlers need.
struct Serving {
    ctx: Arc<Ctx>,
    instances: View<Instance>,
}

/// Runs the agent until shutdown begins. Instances go on without it.
///
/// `connect` resolves when the bus is there, and to none when it never will be; what was desired last is served
/// meanwhile.
pub async fn serve(
    connect: impl Future<Output = Result<Option<Bus>, Error>> + Send,
    config: Config,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let saved = Saved::open(&config.state_dir)?;
    let path = config.state_dir.join(KEY_FILE);
    let key = CurveKey::load_or_create(&path)
        .map_err(|error| Error::new(Code::RUNTIME_NOT_PERMITTED, format!("the node's own key: {error}")))?;
    let curve_key = key.public();
    let ctx = Arc::new(context(config).await?);
    let workers = Arc::new(Workers::new(ctx.clone(), shutdown.clone()));
    shutdown.spawn_until("look out", workers.clone().look_out(ctx.backend.notices()));
    shutdown.spawn_until("usage", {
        let ctx = ctx.clone();
        async move { ctx.meter.run().await }
    });
    shutdown.spawn_until("events", {
        let ctx = ctx.clone();
        async move { ctx.events.run(ctx.backend.as_ref()).await }
    });
    let mut agent = Agent::new(ctx.clone(), workers.clone(), saved, key);
    let mut connect = pin!(connect);
    let bus = match timeout(BUS_WITHIN, &mut connect).await {
        Ok(bus) => bus?,
        Err(_) => {
            agent.start_from_saved();
            connect.await?
        }
    };
    let Some(bus) = bus else { return Ok(()) };
    let node = ctx.config.node.clone();
    shutdown.spawn_until("agent", agent.follow(bus.clone()));
    shutdown.spawn_until("tell events", {
        let (ctx, bus) = (ctx.clone(), bus.clone());
        async move { ctx.events.tell(bus).await }
    });
    shutdown.spawn_until("tell usage", {
        let (ctx, bus) = (ctx.clone(), bus.clone());
        async move { ctx.meter.tell(bus).await }
    });
    // Servers are looked after by now, whatever keeps the bus from telling others about them.
    let opened = bus::start("runtime", &shutdown, |part| {
        let bus = bus.clone();
        async move {
            let bucket = bus.own::<Instance>().await?;
            let instances = View::open(&bucket, &part).await?;
            Ok((bucket, instances))
        }
    });
    let Some((bucket, instances)) = opened.await? else { return Ok(()) };
    let serving = Arc::new(Serving { ctx: ctx.clone(), instances });
    shutdown.spawn_until("reports", {
        let ctx = ctx.clone();
        async move { ctx.reports.publish(bucket).await }
    });
    shutdown.spawn_until("forget", {
        let serving = serving.clone();
        async move { workers.forget_others(|| serving.instances.read().values().cloned().collect()).await }
    });
    shutdown.spawn_until("announce", announce::announce(bus.clone(), ctx, curve_key));
    bus.service("runtime", serving)
        .at(node)
        .on(handlers::list)
        .on(handlers::probe_dest)
        .on(handlers::inspect)
        .run(&shutdown)
        .await
}

async fn context(config: Config) -> Result<Ctx, Error> {
    let docker = docker::Settings {
        node: config.node.clone(),
        socket: config.docker_socket.clone(),
        deadlines: docker::Deadlines::default(),
    };
    let process = process::Settings {
        node: config.node.clone(),
        state_dir: config.state_dir.clone(),
        search: config.search.clone(),
    };
    // Its tasks end with the backend, which ends with the agent.
    let Chosen { backend, because } = choose(config.backend, docker, process, TaskTracker::new()).await?;
    tracing::info!(node = %config.node, "runs servers by {because}");
    let address = address::public(config.address.as_deref());
    tracing::info!(host = address.host, source = ?address.source, "links carry this address");
    let reports = Reports::new(config.node.clone(), backend.name());
    let meter = Meter::new(config.node.clone(), &config.state_dir);
    let events = Events::new(config.node.clone(), &config.state_dir);
    Ok(Ctx {
        backend,
        because,
        address,
        own_addresses: address::own(),
        reports,
        meter,
        events,
        engines: Box::new(instance::engine_of),
        config,
    })
}
