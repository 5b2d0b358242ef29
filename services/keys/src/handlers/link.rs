use std::{collections::BTreeMap, sync::Arc, time::Duration};

use contract::{
    NodeName, Protocol,
    fleet::{GetNode, GetServer, ListServers, Server},
    keys::{Credentials, Link, Links, Sealed, ServerKeys, ServerLink, ServerPublic},
    users,
};
use tokio::time::{Instant, sleep};

use crate::{
    Ctx, Error,
    links::{self, Endpoint},
};

/// Credentials follow a user's or server's creation within milliseconds: who asks in between waits for them.
const ISSUED_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks whether they are there.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Makes the links of a user.
pub async fn link(ctx: Arc<Ctx>, request: Link) -> Result<Links, Error> {
    let deadline = Instant::now() + ISSUED_WITHIN;
    let user = ctx.bus.call(users::Get { name: request.user.clone() }).await?;
    let servers = match request.server {
        Some(name) => vec![ctx.bus.call(GetServer { name }).await?],
        None => ctx.bus.call(ListServers::default()).await?.servers,
    };
    let credentials = credentials_of(&ctx, &user, deadline).await?;
    let mut hosts = BTreeMap::<NodeName, String>::new();
    let mut made = Vec::with_capacity(servers.len());
    for server in servers {
        let keys = keys_of(&ctx, &server, deadline).await?;
        let host = match hosts.get(&server.node) {
            Some(host) => host.clone(),
            None => {
                let node = ctx.bus.call(GetNode { name: server.node.clone() }).await?;
                hosts.entry(server.node.clone()).or_insert(node.announced.address.host).clone()
            }
        };
        let link = link_to(&ctx, &credentials, &server, &keys, &host)?;
        made.push(ServerLink { server: server.name, protocol: server.protocol, link });
    }
    made.sort_by(|a, b| a.server.cmp(&b.server));
    Ok(Links { user: request.user, links: made })
}

async fn credentials_of(ctx: &Ctx, user: &users::User, deadline: Instant) -> Result<Credentials, Error> {
    loop {
        match ctx.credentials.get(&user.name).await? {
            // Those of an earlier user of that name are about to go.
            Some(credentials) if credentials.user_id == user.id => return Ok(credentials),
            _ if Instant::now() > deadline => return Err(Error::UserNotIssued(user.name.clone())),
            _ => sleep(LOOK_EVERY).await,
        }
    }
}

async fn keys_of(ctx: &Ctx, server: &Server, deadline: Instant) -> Result<ServerKeys, Error> {
    loop {
        match ctx.servers.get(server.name.as_str()) {
            Some(keys) if keys.server_id == server.id => return Ok(keys),
            _ if Instant::now() > deadline => return Err(Error::ServerNotIssued(server.name.clone())),
            _ => sleep(LOOK_EVERY).await,
        }
    }
}

/// Opens what one link needs and writes it down; what was opened is wiped.
fn link_to(
    ctx: &Ctx,
    credentials: &Credentials,
    server: &Server,
    keys: &ServerKeys,
    host: &str,
) -> Result<String, Error> {
    let Credentials { user_id, generation, .. } = *credentials;
    let bound_to = |protocol| Sealed::of_user(user_id, generation, protocol);
    let label = format!("{}@{}", credentials.user, server.name);
    let to = Endpoint { label: &label, host, port: server.port };
    match &keys.public {
        ServerPublic::VlessReality { public_key, short_id } => {
            let name = server.reality.as_ref().and_then(|reality| reality.server_names.first());
            let name = name.ok_or_else(|| Error::ServerIncomplete(server.name.clone()))?;
            let protocol = Protocol::VlessReality;
            let uuid = ctx
                .keyring
                .delivery(protocol)
                .open_exact::<16>(&credentials.vless_reality, &bound_to(protocol))?;
            Ok(links::vless(&to, &uuid, name, public_key, short_id))
        }
        ServerPublic::Shadowsocks2022 => {
            let protocol = Protocol::Shadowsocks2022;
            let key = ctx.keyring.delivery(protocol);
            let user = key.open_exact::<16>(&credentials.shadowsocks_2022, &bound_to(protocol))?;
            let server = key.open_exact::<16>(&keys.private, &Sealed::of_server(keys.server_id, protocol))?;
            Ok(links::shadowsocks(&to, &server, &user))
        }
        ServerPublic::Wireguard { public_key } => {
            let protocol = Protocol::Wireguard;
            let own = &credentials.wireguard;
            let shared =
                ctx.keyring.delivery(protocol).open_exact::<32>(&own.preshared_key, &bound_to(protocol))?;
            let private = ctx
                .keyring
                .private()
                .open_exact::<32>(&own.private_key, &Sealed::of_user_alone(user_id, generation))?;
            let resolvers = &ctx.config.resolvers;
            Ok(links::wireguard(&to, &private, own.address, public_key, &shared, resolvers))
        }
    }
}
