//! The file that Xray starts from.
//!
//! How a connection goes through it: an inbound (the server's protocol, or the control socket), then the first
//! rule that fits, then an outbound. TCP that no rule fits goes to the first outbound, which lets it out: so a rule
//! that is added behind the others while the engine runs still counts, as the one does that keeps a user who leaves
//! from it (see [`users`](super::users)).
//!
//! Destinations that users are kept from, by address: a rule. By name: Xray's own DNS leaves private addresses out
//! of every answer, and the ways out connect to nothing that it did not answer (`ForceIP…`), so there is no second
//! look-up that could say something else. Over UDP: once a user's socket has a session, 26.3 sends its packets to
//! any destination without asking the rules again. So UDP leaves through a second outbound, which makes a session
//! deliver to the destination that was judged, and nowhere else.

use std::path::Path;

use base64::{
    display::Base64Display,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use contract::{Code, fleet::Reality, keys::ServerPublic};
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::nobody::{Nobody, PLACEHOLDER};
use crate::{
    backend::Error,
    engine::{EngineServer, EngineUser, UserSecret, private},
};

/// The tag of the inbound that the engine starts with.
pub(super) const INBOUND: &str = "vpn-in";
/// All users speak it (VLESS); `xtls-rprx-vision` hides TLS inside TLS.
pub(super) const FLOW: &str = "xtls-rprx-vision";
/// The tag of the outbound that swallows everything.
pub(super) const BLOCKED: &str = "blocked";
/// The control socket, in the run directory.
pub(super) const API_SOCKET: &str = "api.sock";
/// Who connected from where and to what, in the run directory.
pub(super) const ACCESS_LOG: &str = "access.log";
/// The one method with many users whose keys are 16 bytes (SIP022).
const METHOD: &str = "2022-blake3-aes-128-gcm";
/// JSON around one user with names and keys of the usual length; only saves growing.
const BYTES_PER_USER: usize = 140;

/// The file for a server with these users. `inside` is the run directory as the engine sees it.
pub(super) fn file(
    server: &EngineServer,
    users: &[EngineUser],
    inside: &Path,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let placeholder = Nobody::placeholder()?;
    let main = inbound(server, users, &placeholder)?;
    let kept_from = private::kept_from(&server.own_addresses, &server.server.allow_private);
    let parts = File {
        // Warnings name the UUID of a user whose client is set up wrongly; errors name none.
        log: json!({ "loglevel": "error", "access": inside.join(ACCESS_LOG) }),
        api: json!({ "tag": "api", "services": ["HandlerService", "RoutingService", "StatsService", "LoggerService"] }),
        stats: json!({}),
        policy: json!({ "levels": { "0": {
            "statsUserUplink": true, "statsUserDownlink": true, "statsUserOnline": true,
        } } }),
        dns: json!({ "servers": [{ "address": "localhost", "unexpectedIPs": kept_from }] }),
        routing: routing(&kept_from),
        outbounds: outbounds(),
        inbounds: (api_inbound(inside), main),
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024 + BYTES_PER_USER * users.len()));
    serde_json::to_writer(&mut *bytes, &parts).map_err(|error| {
        Error::new(Code::INTERNAL, format!("Xray's configuration cannot be written: {error}"))
    })?;
    Ok(bytes)
}

#[derive(Serialize)]
struct File<'a> {
    log: Value,
    api: Value,
    stats: Value,
    policy: Value,
    dns: Value,
    routing: Value,
    outbounds: Value,
    inbounds: (Value, Inbound<'a>),
}

/// In 26.3 `api.listen` takes TCP only. Without `port` the engine panics at the first call; without `unix` in
/// `network` there is no socket.
fn api_inbound(inside: &Path) -> Value {
    json!({
        "tag": "api-in",
        "listen": inside.join(API_SOCKET),
        "protocol": "dokodemo-door",
        "settings": { "address": "127.0.0.1", "port": 1, "network": "tcp,unix" },
    })
}

fn routing(kept_from: &[IpNet]) -> Value {
    json!({ "domainStrategy": "AsIs", "rules": [
        { "inboundTag": ["api-in"], "outboundTag": "api" },
        // Who leaves may connect under a placeholder's name for a moment; see `nobody`.
        { "user": [format!("regexp:^{}", PLACEHOLDER.replace('.', "\\."))], "outboundTag": BLOCKED },
        { "ip": kept_from, "outboundTag": BLOCKED },
        { "network": "udp", "outboundTag": "direct-udp" },
    ] })
}

/// IPv4 first: where the node has no way out over IPv6, a name with both kinds of addresses still works.
fn outbounds() -> Value {
    let strategy = "ForceIPv4v6";
    json!([
        { "tag": "direct", "protocol": "freedom", "targetStrategy": strategy,
          "settings": { "domainStrategy": strategy } },
        { "tag": BLOCKED, "protocol": "blackhole" },
        { "tag": "direct-udp", "protocol": "freedom", "targetStrategy": strategy,
          "settings": { "domainStrategy": strategy },
          "streamSettings": { "sockopt": { "dialerProxy": "direct" } } },
    ])
}

#[derive(Serialize)]
struct Inbound<'a> {
    tag: &'static str,
    port: u16,
    protocol: &'static str,
    settings: Settings<'a>,
    #[serde(rename = "streamSettings", skip_serializing_if = "Option::is_none")]
    stream: Option<Stream<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Settings<'a> {
    Vless {
        decryption: &'static str,
        clients: Vec<VlessClient<'a>>,
    },
    Shadowsocks {
        method: &'static str,
        password: Base64<'a>,
        network: &'static str,
        clients: Vec<ShadowsocksClient<'a>>,
    },
}

#[derive(Serialize)]
struct VlessClient<'a> {
    email: &'a str,
    id: Uuid,
    flow: &'static str,
}

#[derive(Serialize)]
struct ShadowsocksClient<'a> {
    email: &'a str,
    password: Base64<'a>,
}

#[derive(Serialize)]
struct Stream<'a> {
    network: &'static str,
    security: &'static str,
    #[serde(rename = "realitySettings")]
    reality: RealitySettings<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RealitySettings<'a> {
    dest: String,
    server_names: &'a [String],
    private_key: Base64Url<'a>,
    short_ids: [&'a str; 1],
    /// Without it, clients that do not say their version are refused.
    min_client_ver: &'static str,
}

fn inbound<'a>(
    server: &'a EngineServer,
    users: &'a [EngineUser],
    placeholder: &'a Nobody,
) -> Result<Inbound<'a>, Error> {
    let port = server.server.port.get();
    match (&server.public, &server.server.reality) {
        (ServerPublic::VlessReality { short_id, .. }, Some(reality)) => {
            let clients = users.iter().map(vless_client).collect::<Result<_, _>>()?;
            let settings = Settings::Vless { decryption: "none", clients };
            let reality = reality_settings(reality, short_id, &server.secret);
            let stream = Some(Stream { network: "tcp", security: "reality", reality });
            Ok(Inbound { tag: INBOUND, port, protocol: "vless", settings, stream })
        }
        (ServerPublic::Shadowsocks2022, _) => {
            let clients = users.iter().map(shadowsocks_client);
            let clients = clients.chain([Ok(placeholder.client())]).collect::<Result<_, _>>()?;
            let password = Base64(&server.secret);
            let settings = Settings::Shadowsocks { method: METHOD, password, network: "tcp,udp", clients };
            Ok(Inbound { tag: INBOUND, port, protocol: "shadowsocks", settings, stream: None })
        }
        _ => {
            let server = &server.server;
            let message = format!("Xray does not serve {} as {} is set up", server.protocol, server.name);
            Err(Error::new(Code::INTERNAL, message))
        }
    }
}

fn vless_client(user: &EngineUser) -> Result<VlessClient<'_>, Error> {
    match &user.secret {
        UserSecret::VlessReality(id) => {
            Ok(VlessClient { email: user.name.as_str(), id: Uuid::from_bytes(**id), flow: FLOW })
        }
        _ => Err(super::wrong_secret(&user.name)),
    }
}

fn shadowsocks_client(user: &EngineUser) -> Result<ShadowsocksClient<'_>, Error> {
    match &user.secret {
        UserSecret::Shadowsocks2022(key) => {
            Ok(ShadowsocksClient { email: user.name.as_str(), password: Base64(key.as_slice()) })
        }
        _ => Err(super::wrong_secret(&user.name)),
    }
}

fn reality_settings<'a>(
    reality: &'a Reality,
    short_id: &'a str,
    private_key: &'a [u8],
) -> RealitySettings<'a> {
    RealitySettings {
        dest: reality.dest.to_string(),
        server_names: &reality.server_names,
        private_key: Base64Url(private_key),
        short_ids: [short_id],
        min_client_ver: "1.0.0",
    }
}

impl Nobody {
    fn client(&self) -> ShadowsocksClient<'_> {
        ShadowsocksClient { email: &self.email, password: Base64(self.key.as_slice()) }
    }
}

/// Written without a copy of the key in between.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// The same in the alphabet of REALITY's keys.
struct Base64Url<'a>(&'a [u8]);

impl Serialize for Base64Url<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &URL_SAFE_NO_PAD))
    }
}
