//! Which service runs with which connection.

use std::time::Duration;

use anyhow::bail;
use bus::{Bus, Shutdown};
use contract::Error;
use tokio::task::JoinSet;

use crate::{
    config::{Command, Common},
    embedded::Embedded,
};

/// What is under way at a stop may take so long to finish; less than supervisors wait before they kill.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Runs what the command names until shutdown begins, and finishes what is under way then.
pub(crate) async fn run(mut common: Common, command: Command, shutdown: Shutdown) -> anyhow::Result<()> {
    let embedded = match &command {
        Command::All(all) if all.embedded_bus => Some(Embedded::start(&common.nats, all, &shutdown).await?),
        _ => None,
    };
    if let Some(embedded) = &embedded {
        common.nats = embedded.url();
    }
    let served = serve(common, command, &shutdown).await;
    shutdown.finish(STOP_WITHIN).await;
    // Last: requests that were taken on are answered on it.
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    served?;
    if shutdown.has_failed() {
        bail!("a task panicked; the log says which");
    }
    Ok(())
}

async fn serve(common: Common, command: Command, shutdown: &Shutdown) -> anyhow::Result<()> {
    let shutdown = shutdown.clone();
    // Each on the heap: together on a stack they take a quarter of a megabyte, of which one service needs little.
    match command {
        Command::Users => Box::pin(users(common, shutdown)).await?,
        Command::Keys(own) => Box::pin(keys(common, own.config()?, shutdown)).await?,
        Command::Fleet => Box::pin(fleet(common, shutdown)).await?,
        Command::Runtime(own) => Box::pin(runtime(common, own.config()?, shutdown)).await?,
        Command::Stats(own) => Box::pin(stats(common, own.config(), shutdown)).await?,
        Command::All(all) => {
            let (own_keys, own_runtime) = (all.keys(), all.runtime()?);
            let mut services = JoinSet::new();
            services.spawn(users(common.clone(), shutdown.clone()));
            services.spawn(keys(common.clone(), own_keys, shutdown.clone()));
            services.spawn(fleet(common.clone(), shutdown.clone()));
            services.spawn(runtime(common.clone(), own_runtime, shutdown.clone()));
            services.spawn(stats(common.clone(), all.stats(), shutdown.clone()));
            // One that fails takes the others along: a house with a service missing is not up.
            let mut failed = Ok(());
            while let Some(ended) = services.join_next().await {
                shutdown.begin();
                failed = failed.and(ended?);
            }
            failed?;
        }
        Command::WireguardDevice(_) => {}
    }
    Ok(())
}

async fn users(common: Common, shutdown: Shutdown) -> Result<(), Error> {
    start(&common.bus("users"), &shutdown, users::serve).await
}

async fn keys(common: Common, config: keys::Config, shutdown: Shutdown) -> Result<(), Error> {
    start(&common.bus("keys"), &shutdown, |bus, part| keys::serve(bus, config.clone(), part)).await
}

async fn fleet(common: Common, shutdown: Shutdown) -> Result<(), Error> {
    start(&common.bus("fleet"), &shutdown, |bus, part| fleet::serve(bus, fleet::Config::default(), part))
        .await
}

async fn stats(common: Common, config: stats::Config, shutdown: Shutdown) -> Result<(), Error> {
    start(&common.bus("stats"), &shutdown, |bus, part| stats::serve(bus, config.clone(), part)).await
}

/// The agent serves what it was told last while it waits for the bus.
async fn runtime(common: Common, config: runtime::Config, shutdown: Shutdown) -> Result<(), Error> {
    let bus = common.bus("runtime");
    runtime::serve(connect(&bus, &shutdown), config, shutdown.clone()).await
}

/// Serves as soon as the bus is there and does what it is asked: one that comes up can do so later than it answers.
async fn start<W: Future<Output = Result<(), Error>>>(
    config: &bus::Config,
    shutdown: &Shutdown,
    serve: impl Fn(Bus, Shutdown) -> W,
) -> Result<(), Error> {
    let Some(bus) = connect(config, shutdown).await? else { return Ok(()) };
    bus::start(&config.name, shutdown, |part| serve(bus.clone(), part)).await.map(drop)
}

/// Connects as soon as the bus is there; none when shutdown begins before.
async fn connect(config: &bus::Config, shutdown: &Shutdown) -> Result<Option<Bus>, Error> {
    bus::start(&config.name, shutdown, |_| Bus::connect(config)).await
}
