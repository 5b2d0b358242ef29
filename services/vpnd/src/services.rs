//! Which service runs with which connection.

use std::time::Duration;

use bus::{Bus, Shutdown};
use contract::{Code, Error};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    config::{Command, Common},
    embedded::Embedded,
};

/// Between two attempts to reach a bus that is not there yet.
const RETRY_AFTER: Duration = Duration::from_millis(100);
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
    served
}

async fn serve(common: Common, command: Command, shutdown: &Shutdown) -> anyhow::Result<()> {
    let shutdown = shutdown.clone();
    match command {
        Command::Users => users(common, shutdown).await?,
        Command::Keys(own) => keys(common, own.config()?, shutdown).await?,
        Command::Fleet => fleet(common, shutdown).await?,
        Command::Runtime(own) => runtime(common, own.config()?, shutdown).await?,
        Command::All(all) => {
            let (own_keys, own_runtime) = (all.keys(), all.runtime()?);
            let mut services = JoinSet::new();
            services.spawn(users(common.clone(), shutdown.clone()));
            services.spawn(keys(common.clone(), own_keys, shutdown.clone()));
            services.spawn(fleet(common.clone(), shutdown.clone()));
            services.spawn(runtime(common.clone(), own_runtime, shutdown.clone()));
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
    match connect(&common.bus("users"), &shutdown).await? {
        Some(bus) => users::serve(bus, shutdown).await,
        None => Ok(()),
    }
}

async fn keys(common: Common, config: keys::Config, shutdown: Shutdown) -> Result<(), Error> {
    match connect(&common.bus("keys"), &shutdown).await? {
        Some(bus) => keys::serve(bus, config, shutdown).await,
        None => Ok(()),
    }
}

async fn fleet(common: Common, shutdown: Shutdown) -> Result<(), Error> {
    match connect(&common.bus("fleet"), &shutdown).await? {
        Some(bus) => fleet::serve(bus, fleet::Config::default(), shutdown).await,
        None => Ok(()),
    }
}

/// The agent serves what it was told last while it waits for the bus.
async fn runtime(common: Common, config: runtime::Config, shutdown: Shutdown) -> Result<(), Error> {
    let bus = common.bus("runtime");
    runtime::serve(connect(&bus, &shutdown), config, shutdown.clone()).await
}

/// Connects as soon as the bus is there; none when shutdown begins before.
async fn connect(config: &bus::Config, shutdown: &Shutdown) -> Result<Option<Bus>, Error> {
    let mut told = false;
    loop {
        match Bus::connect(config).await {
            Err(error) if error.code == Code::BUS_UNREACHABLE => {
                if !told {
                    tracing::warn!(service = config.name, %error, "waiting for the bus");
                    told = true;
                }
            }
            other => return other.map(Some),
        }
        tokio::select! {
            () = sleep(RETRY_AFTER) => {}
            () = shutdown.begun() => return Ok(None),
        }
    }
}
