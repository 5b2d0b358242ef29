use std::sync::Arc;

use contract::users::{Delete, User};

use crate::{Ctx, Error};

/// Removes a user; replies with it as it was.
pub async fn delete(ctx: Arc<Ctx>, request: Delete) -> Result<User, Error> {
    ctx.store.delete(&request.name).await
}
