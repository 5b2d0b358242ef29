use std::sync::Arc;

use contract::{
    Timestamp,
    users::{Event, Resume, User, UserState},
};

use crate::{Ctx, Error};

/// Lets a suspended user connect again; one whose time is over becomes expired.
pub async fn resume(ctx: Arc<Ctx>, request: Resume) -> Result<User, Error> {
    ctx.store
        .modify(&request.name, |user| {
            if !matches!(user.state, UserState::Suspended { .. }) {
                return Ok(None);
            }
            let now = Timestamp::now();
            let over = user.expires_at.is_some_and(|at| at <= now);
            let (state, event) = if over {
                (UserState::Expired { since: now }, Event::Expired)
            } else {
                (UserState::Active, Event::Resumed)
            };
            Ok(Some((User { state, updated_at: now, ..user.clone() }, event)))
        })
        .await
}
