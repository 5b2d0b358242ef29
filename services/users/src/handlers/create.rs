use std::sync::Arc;

use contract::{
    Timestamp,
    users::{Create, User, UserId},
};
use uuid::Uuid;

use crate::{Ctx, Error};

/// Creates a user.
pub async fn create(ctx: Arc<Ctx>, request: Create) -> Result<User, Error> {
    let user = User::new(request, UserId(Uuid::now_v7()), Timestamp::now())?;
    ctx.store.insert(&user).await?;
    Ok(user)
}
