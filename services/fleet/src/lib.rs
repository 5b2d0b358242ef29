//! Nodes and servers: what should run where. What really runs is `runtime`'s.
//!
//! - [`handlers`]  one file per verb on `vpn.fleet.*`
//! - [`placement`] pure: which node takes a server, and who holds a port
//! - [`settings`]  pure: what a server may ask for, and what an agent may say of itself
//! - [`presence`]  which nodes are heard, and the task that notices those that are not
//! - [`dest`]      asks a node about a REALITY dest
//! - [`store`]     the buckets `vpn_nodes` and `vpn_servers`, and both in memory
//! - [`config`]    the numbers
//! - [`error`]     what is refused, with the words for people

pub mod config;
mod dest;
pub mod error;
mod handlers;
pub mod placement;
pub mod presence;
pub mod settings;
mod store;

use std::sync::Arc;

use bus::{Bus, Shutdown};
pub use config::Config;
use presence::Heard;
use store::Store;
use tokio::time::Instant;

/// What a handler needs.
struct Ctx {
    bus: Bus,
    store: Store,
    heard: Heard,
}

/// Serves `vpn.fleet.*` until shutdown begins.
pub async fn serve(bus: Bus, config: Config, shutdown: Shutdown) -> Result<(), contract::Error> {
    let store = Store::open(&bus, &shutdown).await?;
    let heard = Heard::new(config.lost_after, Instant::now());
    let ctx = Arc::new(Ctx { bus: bus.clone(), store, heard });
    let announcements = bus.overhear().await?;
    shutdown.spawn_until("listen", presence::listen(ctx.clone(), announcements));
    shutdown.spawn_until("presence", presence::watch(ctx.clone()));
    bus.service("fleet", ctx)
        .on(handlers::announce)
        .on(handlers::list_nodes)
        .on(handlers::get_node)
        .on(handlers::create_server)
        .on(handlers::update_server)
        .on(handlers::get_server)
        .on(handlers::list_servers)
        .on(handlers::run_server)
        .on(handlers::delete_server)
        .run(&shutdown)
        .await
}
