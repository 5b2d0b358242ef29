//! Accounts: who may connect, until when and how much.
//!
//! - [`handlers`] one file per verb on `vpn.users.*`
//! - [`listing`]  pure: filter, order and pages
//! - [`expiry`]   ends accounts whose time is over
//! - [`store`]    the bucket `vpn_users`, and a view of it for lists
//! - [`error`]    what can be refused

pub mod error;
pub mod expiry;
pub mod handlers;
pub mod listing;
pub mod store;

use std::sync::Arc;

use bus::{Bus, Shutdown};
pub use error::Error;
use store::Store;

/// What handlers need.
pub struct Ctx {
    /// The accounts.
    pub store: Store,
}

/// Serves `vpn.users.*` until shutdown begins.
pub async fn serve(bus: Bus, shutdown: Shutdown) -> Result<(), contract::Error> {
    let agenda = Arc::new(expiry::Agenda::default());
    let store = Store::open(&bus, &shutdown, agenda.clone()).await?;
    shutdown.spawn_until("expiry", expiry::watch(store.clone(), agenda));
    bus.service("users", Arc::new(Ctx { store }))
        .on(handlers::create)
        .on(handlers::create_many)
        .on(handlers::get)
        .on(handlers::list)
        .on(handlers::update)
        .on(handlers::suspend)
        .on(handlers::resume)
        .on(handlers::delete)
        .run(&shutdown)
        .await
}
