//! Credentials and server keys: made when users and servers come to be, sealed, replaced, destroyed, and handed
//! out as links. The only service that has the master key.
//!
//! - [`handlers`] one file per verb on `vpn.keys.*`
//! - [`links`]    pure: what a client imports
//! - [`follow`]   users and servers as they come and go -> credentials and server keys
//! - [`grants`]   which node may open what, and the boxes that let it
//! - [`issue`]    makes secrets and seals them at once
//! - [`prekeys`]  Shadowsocks keys made ahead of their owners
//! - [`keyring`]  what the master key gives: the sealing keys
//! - [`store`]    the bucket `vpn_credentials`: what is issued, and every write of it
//! - [`places`]   pure: the users' WireGuard addresses
//! - [`config`]   what the service is told at its start
//! - [`error`]    what can be refused

pub mod config;
pub mod error;
pub mod follow;
pub mod grants;
pub mod handlers;
pub mod issue;
pub mod keyring;
pub mod links;
pub mod places;
pub mod prekeys;
pub mod store;

use std::sync::Arc;

use bus::{Bucket, Bus, Shutdown, View};
pub use config::Config;
use contract::{
    fleet::{Node, Server},
    keys::{Credentials, Grant, ServerKeys},
    users::User,
};
pub use error::Error;
use keyring::Keyring;
use prekeys::Prekeys;
use store::Store;

/// What handlers and followers need.
pub struct Ctx {
    /// To ask others.
    pub bus: Bus,
    /// What the service was told.
    pub config: Config,
    /// What seals and opens.
    pub keyring: Arc<Keyring>,
    /// What the next users get.
    pub prekeys: Prekeys,
    /// The users' credentials.
    pub credentials: Store,
    /// The servers' keys.
    pub server_keys: Bucket<ServerKeys>,
    /// The same in memory.
    pub servers: View<ServerKeys>,
    /// What nodes may open, in memory.
    pub grants: View<Grant>,
}

/// Serves `vpn.keys.*` and follows users, servers and nodes until shutdown begins.
pub async fn serve(bus: Bus, config: Config, shutdown: Shutdown) -> Result<(), contract::Error> {
    bus.own_dead_letters().await?;
    let (users, fleet, nodes) =
        (bus.own::<User>().await?, bus.own::<Server>().await?, bus.own::<Node>().await?);
    let (server_keys, grants) = (bus.own::<ServerKeys>().await?, bus.own::<Grant>().await?);
    let servers = View::open(&server_keys, &shutdown).await?;
    let ledger = store::Ledger::load(bus.own::<Credentials>().await?).await?;
    let keyring = Arc::new(Keyring::open(&config, ledger.sample(), servers.read().values().next())?);
    let ctx = Arc::new(Ctx {
        credentials: Store::new(ledger),
        grants: View::open(&grants, &shutdown).await?,
        bus: bus.clone(),
        config,
        prekeys: Prekeys::new(bus.own().await?, keyring.clone()),
        keyring,
        server_keys,
        servers,
    });

    let granting = grants::Granting::load(grants, ctx.keyring.clone()).await?;
    let (watched_servers, watched_nodes) = (fleet.watch().await?, nodes.watch().await?);
    shutdown.spawn_until("grants", granting.run(watched_servers, watched_nodes));
    shutdown.spawn_until("prekeys", {
        let ctx = ctx.clone();
        async move { ctx.prekeys.run().await }
    });
    shutdown.spawn("follow users", {
        let (feed, shutdown, ctx) = (users.feed("keys"), shutdown.clone(), ctx.clone());
        feed.run(shutdown, move |changes| follow::users(ctx.clone(), users.clone(), changes))
    });
    shutdown.spawn("follow servers", {
        let (feed, shutdown, ctx) = (fleet.feed("keys"), shutdown.clone(), ctx.clone());
        feed.run(shutdown, move |changes| follow::servers(ctx.clone(), fleet.clone(), changes))
    });
    bus.service("keys", ctx).on(handlers::rotate).on(handlers::link).on(handlers::status).run(&shutdown).await
}
