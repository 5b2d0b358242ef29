//! What a client imports: `vless://` (XTLS/Xray-core discussion 716), `ss://` (SIP002 with SIP022's passwords)
//! and WireGuard files (wg-quick(8)).

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use contract::{Port, WireguardAddress};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

/// All but RFC 3986's unreserved characters: what no client can misread, wherever in a link it stands.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The method that goes with keys of 16 bytes (SIP022).
const METHOD: &str = "2022-blake3-aes-128-gcm";
/// The largest packet that fits Ethernet's 1500 bytes inside WireGuard over IPv6: wg-quick's own choice.
const MTU: u16 = 1420;
/// Below the 30 s after which the hastiest NATs forget a UDP flow.
const KEEPALIVE_SECONDS: u16 = 25;

/// Where a link leads, and what the client shows for it.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// Shown to people.
    pub label: &'a str,
    /// A name or an address.
    pub host: &'a str,
    /// The port.
    pub port: Port,
}

impl Endpoint<'_> {
    /// `host:port`, an IPv6 address in brackets.
    fn address(&self) -> String {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{host}]:{}", self.port),
            Err(_) => format!("{host}:{}", self.port),
        }
    }

    fn encoded_label(&self) -> String {
        encoded(self.label)
    }
}

/// A link for VLESS over REALITY with Vision. `server_name` is what the server pretends to be.
pub fn vless(
    to: &Endpoint<'_>,
    uuid: &[u8; 16],
    server_name: &str,
    public_key: &str,
    short_id: &str,
) -> String {
    let mut id = Zeroizing::new(String::with_capacity(36));
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    format!(
        "vless://{}@{}?type=tcp&encryption=none&security=reality&sni={}&fp=chrome&pbk={}&sid={}&spx=%2F\
         &flow=xtls-rprx-vision#{}",
        *id,
        to.address(),
        encoded(server_name),
        encoded(public_key),
        encoded(short_id),
        to.encoded_label(),
    )
}

/// A link for Shadowsocks 2022. The password is the server's key and the user's.
pub fn shadowsocks(to: &Endpoint<'_>, server_key: &[u8; 16], user_key: &[u8; 16]) -> String {
    let (server, user) = (base64(server_key), base64(user_key));
    let password = Zeroizing::new(format!("{}:{}", *server, *user));
    let password = Zeroizing::new(encoded(&password));
    format!("ss://{METHOD}:{}@{}#{}", *password, to.address(), to.encoded_label())
}

/// A WireGuard file that sends everything through the tunnel, IPv6 too: what the server cannot carry must not
/// leave beside it.
pub fn wireguard(
    to: &Endpoint<'_>,
    private_key: &[u8; 32],
    address: WireguardAddress,
    server_key: &str,
    preshared_key: &[u8; 32],
    resolvers: &[IpAddr],
) -> String {
    let resolvers: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
    let dns = if resolvers.is_empty() { String::new() } else { format!("DNS = {}\n", resolvers.join(", ")) };
    format!(
        "# {label}\n\
         [Interface]\n\
         PrivateKey = {private}\n\
         Address = {v4}/32, {v6}/128\n\
         {dns}\
         MTU = {MTU}\n\
         \n\
         [Peer]\n\
         PublicKey = {server_key}\n\
         PresharedKey = {preshared}\n\
         Endpoint = {endpoint}\n\
         AllowedIPs = 0.0.0.0/0, ::/0\n\
         PersistentKeepalive = {KEEPALIVE_SECONDS}\n",
        label = to.label,
        private = *base64(private_key),
        v4 = address.v4(),
        v6 = address.v6(),
        preshared = *base64(preshared_key),
        endpoint = to.address(),
    )
}

fn base64(secret: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(secret))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

#[cfg(test)]
mod tests;
