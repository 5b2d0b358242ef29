use std::sync::Arc;

use bus::bucket::WriteError;
use contract::keys::{Rotate, Rotated};

use crate::{
    Ctx, Error,
    store::{CONFLICTS_MAX, Order, Written},
};

/// Replaces a user's credentials. The WireGuard address stays: it is no secret.
pub async fn rotate(ctx: Arc<Ctx>, request: Rotate) -> Result<Rotated, Error> {
    let orders = [(request.user.clone(), Order::Rotate)];
    let mut ledger = ctx.credentials.lock().await;
    for _ in 0..CONFLICTS_MAX {
        if ledger.generation(&request.user).is_none() {
            return Err(Error::UserNotIssued(request.user));
        }
        if ledger.write(&ctx.keyring, &ctx.prekeys, &orders).await? == Written::Stored {
            let generation = ledger.generation(&request.user);
            let not_issued = || Error::UserNotIssued(request.user.clone());
            return Ok(Rotated { generation: generation.ok_or_else(not_issued)?, user: request.user });
        }
    }
    Err(contract::Error::from(WriteError::Conflict).into())
}
