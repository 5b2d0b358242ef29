use std::sync::Arc;

use contract::keys::{KeysStatus, Status};

use crate::{Ctx, Error};

/// Counts what has been issued.
pub async fn status(ctx: Arc<Ctx>, _: Status) -> Result<KeysStatus, Error> {
    Ok(KeysStatus {
        users: ctx.credentials.lock().await.count() as u64,
        servers: ctx.servers.read().len() as u64,
        nodes: ctx.grants.read().len() as u64,
        curve_key: ctx.keyring.curve().public(),
    })
}
