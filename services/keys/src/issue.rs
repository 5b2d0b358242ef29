//! Makes secrets, and seals them before they leave this file.

use std::sync::Arc;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use contract::{
    Protocol, ServerName, Timestamp, UserName, WireguardAddress,
    fleet::ServerId,
    keys::{Credentials, Sealed, ServerKeys, ServerPublic, WireguardCredential},
    users::UserId,
};
use seal::random;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::{Error, keyring::Keyring, prekeys::Key};

/// Fewer than this many are made where they are asked for: 60 µs each, a thread costs as much.
const WORTH_A_THREAD: usize = 8;

/// Whose credentials to make.
#[derive(Debug, Clone)]
pub struct Issue {
    /// The user.
    pub user: UserName,
    /// Its identity.
    pub user_id: UserId,
    /// 1, or one more than before.
    pub generation: u32,
    /// The user's place.
    pub address: WireguardAddress,
    /// A key that was made ahead.
    pub shadowsocks_2022: Option<Key>,
}

/// Makes the credentials of one user.
pub fn credentials(keyring: &Keyring, issue: Issue, now: Timestamp) -> Result<Credentials, Error> {
    let Issue { user, user_id, generation, address, shadowsocks_2022 } = issue;
    let seal = |protocol, secret: &[u8]| {
        keyring.delivery(protocol).seal(secret, &Sealed::of_user(user_id, generation, protocol))
    };
    let (private, public) = x25519()?;
    let shadowsocks_2022 = shadowsocks_2022.map_or_else(random, Ok)?;
    Ok(Credentials {
        vless_reality: seal(Protocol::VlessReality, uuid_v4()?.as_slice())?,
        shadowsocks_2022: seal(Protocol::Shadowsocks2022, shadowsocks_2022.as_slice())?,
        wireguard: WireguardCredential {
            public_key: STANDARD.encode(public),
            preshared_key: seal(Protocol::Wireguard, random::<32>()?.as_slice())?,
            private_key: keyring
                .private()
                .seal(private.as_slice(), &Sealed::of_user_alone(user_id, generation))?,
            address,
        },
        user,
        user_id,
        generation,
        issued_at: now,
    })
}

/// Makes the credentials of many users on all processors; in the order of `issues`.
pub async fn credentials_of_all(
    keyring: &Arc<Keyring>,
    issues: Vec<Issue>,
    now: Timestamp,
) -> Result<Vec<Credentials>, Error> {
    let some = move |keyring: &Keyring, issues: Vec<Issue>| -> Result<Vec<_>, Error> {
        issues.into_iter().map(|issue| credentials(keyring, issue, now)).collect()
    };
    if issues.len() < WORTH_A_THREAD {
        return some(keyring, issues);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parts = Vec::new();
    for part in issues.chunks(issues.len().div_ceil(threads)) {
        let (keyring, part) = (keyring.clone(), part.to_vec());
        parts.push(tokio::task::spawn_blocking(move || some(&keyring, part)));
    }
    let mut made = Vec::with_capacity(issues.len());
    for part in parts {
        made.extend(part.await.map_err(|_| Error::Interrupted)??);
    }
    Ok(made)
}

/// Makes the keys of one server.
pub fn server(
    keyring: &Keyring,
    server: ServerName,
    server_id: ServerId,
    protocol: Protocol,
    now: Timestamp,
) -> Result<ServerKeys, Error> {
    let seal =
        |secret: &[u8]| keyring.delivery(protocol).seal(secret, &Sealed::of_server(server_id, protocol));
    let (public, private) = match protocol {
        Protocol::VlessReality => {
            let (private, public) = x25519()?;
            let short_id: String = random::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
            let public = ServerPublic::VlessReality { public_key: URL_SAFE_NO_PAD.encode(public), short_id };
            (public, seal(private.as_slice())?)
        }
        Protocol::Shadowsocks2022 => (ServerPublic::Shadowsocks2022, seal(random::<16>()?.as_slice())?),
        Protocol::Wireguard => {
            let (private, public) = x25519()?;
            (ServerPublic::Wireguard { public_key: STANDARD.encode(public) }, seal(private.as_slice())?)
        }
    };
    Ok(ServerKeys { server, server_id, public, private, issued_at: now })
}

/// A key pair: private, public. Clamped (RFC 7748 §5) here, because not every program does so when it reads one.
fn x25519() -> Result<(Zeroizing<[u8; 32]>, [u8; 32]), Error> {
    let mut private = random::<32>()?;
    if let [first, .., last] = private.as_mut_slice() {
        *first &= 248;
        *last = *last & 127 | 64;
    }
    let public = PublicKey::from(&StaticSecret::from(*private));
    Ok((private, public.to_bytes()))
}

/// A random UUID's bytes (RFC 9562 §5.4).
fn uuid_v4() -> Result<Zeroizing<[u8; 16]>, Error> {
    let mut bytes = random::<16>()?;
    if let [_, _, _, _, _, _, version, _, variant, ..] = bytes.as_mut_slice() {
        *version = *version & 0x0f | 0x40;
        *variant = *variant & 0x3f | 0x80;
    }
    Ok(bytes)
}
