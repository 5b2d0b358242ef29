//! Keys for every server there is, for nothing else.

use std::sync::Arc;

use bus::{Bucket, Change, bucket::WriteError};
use contract::{
    Protocol, ServerName, Timestamp,
    fleet::{Server, ServerId},
    keys::{ServerKeys, ServerKeysEvent},
};

use super::{Said, Standing, Verdict, verdict};
use crate::{Ctx, Error, issue, keyring::protocol_of, store::CONFLICTS_MAX};

/// Which server, and what it speaks.
type Who = (ServerId, Protocol);

/// Makes and destroys server keys as `changes` of the bucket `vpn_servers` ask for.
pub async fn servers(
    ctx: Arc<Ctx>,
    bucket: Bucket<Server>,
    changes: Vec<Change<Server>>,
) -> Result<(), contract::Error> {
    for (key, said) in verdict::fold(changes, who) {
        if let Ok(name) = key.parse() {
            settle(&ctx, &bucket, &name, said).await?;
        }
    }
    Ok(())
}

fn who(server: &Server) -> Who {
    (server.id, server.protocol)
}

async fn settle(
    ctx: &Ctx,
    bucket: &Bucket<Server>,
    name: &ServerName,
    mut said: Said<Who>,
) -> Result<(), Error> {
    let key = name.as_str();
    for _ in 0..CONFLICTS_MAX {
        let (standing, revision) = match ctx.server_keys.get(key).await? {
            None => (Standing::Never, 0),
            Some(entry) => (standing(entry.value.as_ref()), entry.revision),
        };
        let written = match verdict::verdict(standing, said) {
            Verdict::Leave => return Ok(()),
            Verdict::Look => {
                said.looked(bucket.get(key).await?, who);
                continue;
            }
            Verdict::Make((id, protocol)) => {
                let made = issue::server(&ctx.keyring, name.clone(), id, protocol, Timestamp::now())?;
                ctx.server_keys.write(key, Some(&made), ServerKeysEvent::Issued, revision).await
            }
            Verdict::Destroy => ctx.server_keys.write(key, None, ServerKeysEvent::Revoked, revision).await,
        };
        match written {
            Ok(_) => return Ok(()),
            Err(WriteError::Conflict) => {}
            Err(WriteError::Failed(error)) => return Err(error.into()),
        }
    }
    Err(contract::Error::from(WriteError::Conflict).into())
}

fn standing(keys: Option<&ServerKeys>) -> Standing<Who> {
    keys.map_or(Standing::Gone, |keys| Standing::For((keys.server_id, protocol_of(&keys.public))))
}
