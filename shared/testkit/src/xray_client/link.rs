//! Links, read as a user's client reads them: by what is in them, and strictly.
//!
//! `vless://` as in the discussion XTLS/Xray-core#716, `ss://` as in SIP002 with SIP022's passwords.

use std::{collections::HashMap, fmt, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

/// A link that a client cannot use, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkError(pub String);

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LinkError {}

/// One server for one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What is shown to the user.
    pub label: String,
    /// How to speak to it.
    pub protocol: Protocol,
}

/// How to speak to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// VLESS over REALITY.
    Vless {
        /// The user.
        id: Uuid,
        /// `xtls-rprx-vision`, or nothing.
        flow: String,
        /// The name that the server pretends to be.
        sni: String,
        /// Whose client hello is imitated.
        fingerprint: String,
        /// x25519.
        public_key: [u8; 32],
        /// As given, in hexadecimal.
        short_id: Vec<u8>,
        /// A path of the imitated site.
        spider_x: String,
    },
    /// Shadowsocks 2022.
    Shadowsocks {
        /// `2022-blake3-…`
        method: String,
        /// `serverPSK:userPSK`
        password: String,
    },
}

impl Link {
    /// Reads `vless://…` or `ss://…`.
    pub fn parse(text: &str) -> Result<Self, LinkError> {
        let url = Url::parse(text).map_err(|error| LinkError(format!("not a URL: {error}")))?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("there is no host"))?;
        let protocol = match url.scheme() {
            "vless" => vless(&url)?,
            "ss" => shadowsocks(&url)?,
            other => return Err(wrong(format!("unknown scheme {other}"))),
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().filter(|port| *port != 0).ok_or_else(|| wrong("there is no port"))?,
            label: decoded(url.fragment().unwrap_or_default())?,
            protocol,
        })
    }

    /// How long a handshake may go unanswered before it was most likely too early.
    pub(super) fn patience(&self) -> Duration {
        match self.protocol {
            // Refused in words; and each try is work for both sides.
            Protocol::Vless { .. } => Duration::from_millis(50),
            // Refused by silence; a try costs next to nothing.
            Protocol::Shadowsocks { .. } => Duration::from_millis(3),
        }
    }

    /// The outbound of Xray's configuration.
    pub fn outbound(&self, tag: &str) -> Value {
        let (address, port) = (&self.host, self.port);
        match &self.protocol {
            Protocol::Vless { id, flow, sni, fingerprint, public_key, short_id, spider_x } => json!({
                "tag": tag,
                "protocol": "vless",
                "settings": { "vnext": [{
                    "address": address,
                    "port": port,
                    "users": [{ "id": id.to_string(), "flow": flow, "encryption": "none" }],
                }] },
                "streamSettings": {
                    "network": "tcp",
                    "security": "reality",
                    "realitySettings": {
                        "serverName": sni,
                        "fingerprint": fingerprint,
                        "publicKey": URL_SAFE_NO_PAD.encode(public_key),
                        "shortId": hex(short_id),
                        "spiderX": spider_x,
                    },
                },
            }),
            Protocol::Shadowsocks { method, password } => json!({
                "tag": tag,
                "protocol": "shadowsocks",
                "settings": { "servers": [{ "address": address, "port": port, "method": method, "password": password }] },
            }),
        }
    }
}

fn vless(url: &Url) -> Result<Protocol, LinkError> {
    let mut given: HashMap<String, String> = HashMap::new();
    for (key, value) in url.query_pairs() {
        if given.insert(key.to_string(), value.into_owned()).is_some() {
            return Err(wrong(format!("{key} stands twice")));
        }
    }
    let mut take = |key: &str| given.remove(key).ok_or_else(|| wrong(format!("{key} is missing")));
    for (key, expected) in [("type", "tcp"), ("encryption", "none"), ("security", "reality")] {
        let value = take(key)?;
        if value != expected {
            return Err(wrong(format!("{key} is {value}, not {expected}")));
        }
    }
    let public_key = URL_SAFE_NO_PAD.decode(take("pbk")?).ok().and_then(|bytes| bytes.try_into().ok());
    let short_id = unhex(&take("sid")?).filter(|bytes| bytes.len() <= 8);
    let protocol = Protocol::Vless {
        id: Uuid::try_parse(url.username())
            .map_err(|error| wrong(format!("the user is no UUID: {error}")))?,
        sni: take("sni")?,
        fingerprint: take("fp")?,
        public_key: public_key.ok_or_else(|| wrong("pbk is no x25519 key"))?,
        short_id: short_id.ok_or_else(|| wrong("sid is not up to 8 bytes in hexadecimal"))?,
        flow: take("flow").unwrap_or_default(),
        spider_x: take("spx").unwrap_or_else(|_| "/".to_owned()),
    };
    match given.keys().next() {
        Some(unknown) => Err(wrong(format!("{unknown} is unknown"))),
        None => Ok(protocol),
    }
}

fn shadowsocks(url: &Url) -> Result<Protocol, LinkError> {
    let password = url.password().ok_or_else(|| wrong("there is no password"))?;
    let (method, password) = (decoded(url.username())?, decoded(password)?);
    let length = match method.as_str() {
        "2022-blake3-aes-128-gcm" => 16,
        "2022-blake3-aes-256-gcm" => 32,
        _ => return Err(wrong(format!("unknown method {method}"))),
    };
    for key in password.split(':') {
        if STANDARD.decode(key).map(|key| key.len()).ok() != Some(length) {
            return Err(wrong(format!("a key of {method} is not {length} bytes in base64")));
        }
    }
    Ok(Protocol::Shadowsocks { method, password })
}

fn wrong(reason: impl Into<String>) -> LinkError {
    LinkError(reason.into())
}

fn decoded(text: &str) -> Result<String, LinkError> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| wrong("not UTF-8"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
