use std::sync::Arc;

use contract::users::{List, Page};

use crate::{Ctx, Error, listing};

/// Reads users, filtered, sorted and by the page.
pub async fn list(ctx: Arc<Ctx>, request: List) -> Result<Page, Error> {
    Ok(listing::page(ctx.store.all().await.values(), &request))
}
