//! Reads the stream of usage into the totals, and keeps them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{
    Bus, Shutdown, insist,
    reader::{Delivered, Position},
};
use contract::usage::Usage;
use tokio::time::{MissedTickBehavior, interval};

use crate::{Counted, Ctx, store::Store};

/// Between two times that what was counted is kept. What a crash takes is counted anew from the stream.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// Follows the stream until it is dropped.
pub(crate) async fn usage(bus: Bus, ctx: Arc<Ctx>, position: Position) {
    let mut reader = bus.read::<Usage>(position);
    let mut missed = 0;
    loop {
        for delivered in reader.next().await {
            take(&bus, &ctx, delivered).await;
        }
        if reader.missed() > missed {
            missed = reader.missed();
            tracing::error!(missed, "the bus dropped usage before it was counted");
        }
    }
}

/// Keeps what was counted, until shutdown begins and a last time then.
pub(crate) async fn keep_on(ctx: Arc<Ctx>, store: Store, shutdown: Shutdown) {
    let mut due = interval(KEEP_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shutdown.has_begun() {
        tokio::select! {
            _ = due.tick() => keep(&ctx, &store).await,
            () = shutdown.begun() => {}
        }
    }
    keep(&ctx, &store).await;
}

async fn take(bus: &Bus, ctx: &Ctx, delivered: Delivered<Usage>) {
    match &delivered.message {
        Ok(Usage::V1(usage)) => {
            let mut counted = ctx.counted();
            let Counted { totals, recent } = &mut *counted;
            if totals.count(usage) {
                recent.take(usage.clone(), Instant::now());
            }
        }
        Err(error) => {
            tracing::error!(%error, "a message about usage goes to the dead letters");
            insist("put it aside", || delivered.bury(bus, error)).await;
        }
    }
    ctx.counted().totals.position = delivered.position;
}

async fn keep(ctx: &Ctx, store: &Store) {
    let changes = ctx.counted().totals.take_changes();
    let Some(changes) = changes.map(Arc::new) else { return };
    if let Err(error) = store.keep(&changes).await {
        tracing::error!(%error, "what was counted cannot be kept; it is tried again");
        ctx.counted().totals.put_back(&changes.changed);
    }
}
