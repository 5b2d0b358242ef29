use std::sync::Arc;

use contract::{
    Timestamp,
    users::{Event, Suspend, User, UserState},
};

use crate::{Ctx, Error};

/// Stops a user; the nodes end its connections.
pub async fn suspend(ctx: Arc<Ctx>, request: Suspend) -> Result<User, Error> {
    ctx.store
        .modify(&request.name, |user| {
            if matches!(user.state, UserState::Suspended { .. }) {
                return Ok(None);
            }
            let now = Timestamp::now();
            let state = UserState::Suspended { since: now, reason: request.reason.clone() };
            Ok(Some((User { state, updated_at: now, ..user.clone() }, Event::Suspended)))
        })
        .await
}
