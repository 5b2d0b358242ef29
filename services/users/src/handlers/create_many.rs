use std::{collections::BTreeSet, sync::Arc};

use contract::{
    Timestamp,
    users::{BATCH_MAX, Create, CreateMany, CreatedMany, User, UserId},
};
use uuid::Uuid;

use crate::{Ctx, Error};

/// Creates many users, every thousand of them at once or not at all.
pub async fn create_many(ctx: Arc<Ctx>, request: CreateMany) -> Result<CreatedMany, Error> {
    let batch = request.batch.unwrap_or_else(Uuid::now_v7);
    let users = build(request.users, batch)?;
    let total = users.len();
    let mut created = 0;
    for chunk in users.chunks(BATCH_MAX) {
        ctx.store.insert_all(chunk.to_vec()).await.map_err(|cause| match created {
            0 => cause,
            created => Error::Stopped { cause: Box::new(cause), batch, created, total },
        })?;
        created += chunk.len();
    }
    Ok(CreatedMany { batch, created: created as u64 })
}

/// All of them are checked before the first is stored.
fn build(requests: Vec<Create>, batch: Uuid) -> Result<Vec<User>, Error> {
    if requests.is_empty() {
        return Err(Error::Batch("there is no user in it".to_owned()));
    }
    let now = Timestamp::now();
    let mut names = BTreeSet::new();
    let mut users = Vec::with_capacity(requests.len());
    for request in requests {
        if !names.insert(request.name.clone()) {
            return Err(Error::Batch(format!("\"{}\" stands in it twice", request.name)));
        }
        let user = User::new(request, UserId(Uuid::now_v7()), now)?;
        users.push(User { batch: Some(batch), ..user });
    }
    Ok(users)
}
