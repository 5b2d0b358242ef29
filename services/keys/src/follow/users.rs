//! Credentials for every user there is, for nobody else.

use std::{collections::BTreeMap, sync::Arc};

use bus::{Bucket, Change};
use contract::{
    UserName,
    users::{User, UserId},
};
use futures::{StreamExt, TryStreamExt};

use super::{Said, Verdict, verdict};
use crate::{
    Ctx,
    store::{CONFLICTS_MAX, Ledger, Order, Written},
};

/// Looks that are under way together.
const LOOKS_AT_ONCE: usize = 64;

/// Makes and destroys credentials as `changes` of the bucket `vpn_users` ask for, all in one batch.
pub async fn users(
    ctx: Arc<Ctx>,
    bucket: Bucket<User>,
    changes: Vec<Change<User>>,
) -> Result<(), contract::Error> {
    let mut said: BTreeMap<UserName, Said<UserId>> = verdict::fold(changes, |user| user.id)
        .into_iter()
        .filter_map(|(key, said)| Some((key.parse().ok()?, said)))
        .collect();
    let mut ledger = ctx.credentials.lock().await;
    for _ in 0..CONFLICTS_MAX {
        look(&ledger, &bucket, &mut said).await?;
        let orders: Vec<_> = said
            .iter()
            .filter_map(|(name, said)| match verdict::verdict(ledger.standing(name), *said) {
                Verdict::Make(user) => Some((name.clone(), Order::Issue(user))),
                Verdict::Destroy => Some((name.clone(), Order::Revoke)),
                Verdict::Leave | Verdict::Look => None,
            })
            .collect();
        if ledger.write(&ctx.keyring, &ctx.prekeys, &orders).await? == Written::Stored {
            return Ok(());
        }
    }
    Err(bus::bucket::WriteError::Conflict.into())
}

/// Looks at the users of those names about which a change does not say enough.
async fn look(
    ledger: &Ledger,
    bucket: &Bucket<User>,
    said: &mut BTreeMap<UserName, Said<UserId>>,
) -> Result<(), contract::Error> {
    let unsure = said
        .iter()
        .filter(|(name, said)| verdict::verdict(ledger.standing(name), **said) == Verdict::Look)
        .map(|(name, _)| name.clone());
    let unsure: Vec<UserName> = unsure.collect();
    let found: Vec<_> = futures::stream::iter(unsure)
        .map(|name| async move { bucket.get(name.as_str()).await.map(|entry| (name, entry)) })
        .buffer_unordered(LOOKS_AT_ONCE)
        .try_collect()
        .await?;
    for (name, entry) in found {
        if let Some(said) = said.get_mut(&name) {
            said.looked(entry, |user| user.id);
        }
    }
    Ok(())
}
