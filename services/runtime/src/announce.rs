//! The agent says that it is there.

use std::{sync::Arc, time::Duration};

use bus::Bus;
use contract::fleet::{Announce, HEARTBEAT_MILLIS};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::Ctx;

/// A daemon that takes longer says its version another time.
const VERSION_WITHIN: Duration = Duration::from_millis(500);
/// The bus carries an announcement in less than a millisecond; the next one is due soon.
const ANNOUNCE_WITHIN: Duration = Duration::from_millis(HEARTBEAT_MILLIS);

/// Announces the node to the fleet every so often, for ever.
pub(crate) async fn announce(bus: Bus, ctx: Arc<Ctx>, curve_key: String) {
    let mut ticks = interval(Duration::from_millis(HEARTBEAT_MILLIS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut announcement = Announce {
        node: ctx.config.node.clone(),
        address: ctx.address.clone(),
        curve_key,
        backend: ctx.backend.name().to_owned(),
        backend_version: String::new(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut told = false;
    loop {
        ticks.tick().await;
        if let Ok(Ok(version)) = timeout(VERSION_WITHIN, ctx.backend.version()).await {
            announcement.backend_version = version;
        }
        match bus.call_within(announcement.clone(), ANNOUNCE_WITHIN).await {
            Ok(_) => told = false,
            // Once for each time that it goes away.
            Err(error) if !told => {
                tracing::warn!(%error, "the fleet does not hear this node");
                told = true;
            }
            Err(_) => {}
        }
    }
}
