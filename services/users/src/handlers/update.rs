use std::sync::Arc;

use contract::{
    Timestamp,
    users::{Event, Update, User, UserState, check_expiry, check_tags},
};

use crate::{Ctx, Error};

/// Changes what the request names; time given to an expired user makes it active again.
pub async fn update(ctx: Arc<Ctx>, request: Update) -> Result<User, Error> {
    let now = Timestamp::now();
    if let Some(tags) = &request.tags {
        check_tags(tags)?;
    }
    if let Some(expires_at) = request.expires_at {
        check_expiry(expires_at, now)?;
    }
    ctx.store
        .modify(&request.name, |user| {
            let mut changed = User {
                tags: request.tags.clone().unwrap_or_else(|| user.tags.clone()),
                note: request.note.clone().unwrap_or_else(|| user.note.clone()),
                quota: request.quota.unwrap_or(user.quota),
                quota_reset: request.quota_reset.unwrap_or(user.quota_reset),
                expires_at: request.expires_at.unwrap_or(user.expires_at),
                ..user.clone()
            };
            if request.expires_at.is_some() && matches!(user.state, UserState::Expired { .. }) {
                changed.state = UserState::Active;
            }
            if changed == *user {
                return Ok(None);
            }
            changed.updated_at = now;
            Ok(Some((changed, Event::Updated)))
        })
        .await
}
