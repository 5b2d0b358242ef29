//! What users, servers and nodes send and receive, folded from the stream `vpn.usage.*`.
//!
//! - [`handlers`] one file per verb on `vpn.stats.*`
//! - [`fold`]     pure: totals, each message counted once
//! - [`recent`]   pure: rates
//! - [`follow`]   reads the stream, and puts aside what cannot be read
//! - [`store`]    the totals on disk, together with the stream's position
//! - [`names`]    who the users are
//! - [`config`]   what the service is told at its start
//! - [`error`]    what can be refused

pub mod config;
pub mod error;
pub mod fold;
mod follow;
mod handlers;
mod names;
pub mod recent;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::{Bus, Shutdown};
pub use config::Config;
use contract::{usage::Usage, users::User};
pub use error::Error;
use fold::Totals;
use names::Names;
use recent::Recent;
use store::Store;

/// What handlers need.
struct Ctx {
    counted: Mutex<Counted>,
    names: Names,
}

/// What was counted.
#[derive(Default)]
struct Counted {
    totals: Totals,
    recent: Recent,
}

impl Ctx {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `vpn.stats.*` until shutdown begins.
pub async fn serve(bus: Bus, config: Config, shutdown: Shutdown) -> Result<(), contract::Error> {
    bus.own_dead_letters().await?;
    bus.own_stream::<Usage>().await?;
    let names = Names::follow(&bus.own::<User>().await?, &shutdown).await?;
    // Last: a start that failed behind it would find it locked when it is tried again.
    let (store, totals) = Store::open(&config.state_dir).await?;
    let position = totals.position;
    let ctx = Arc::new(Ctx { counted: Mutex::new(Counted { totals, recent: Recent::default() }), names });
    shutdown.spawn_until("follow usage", follow::usage(bus.clone(), ctx.clone(), position));
    shutdown.spawn("keep usage", follow::keep_on(ctx.clone(), store, shutdown.clone()));
    bus.service("stats", ctx).on(handlers::usage).on(handlers::top).run(&shutdown).await
}
