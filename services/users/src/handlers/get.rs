use std::sync::Arc;

use contract::users::{Get, User};

use crate::{Ctx, Error};

/// Reads one user.
pub async fn get(ctx: Arc<Ctx>, request: Get) -> Result<User, Error> {
    ctx.store.get(&request.name).await
}
