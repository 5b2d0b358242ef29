//! Whose handshake says that an engine has taken a user in.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use contract::Protocol;
use testkit::{wireguard_client::handshake, xray_client::XrayClient};

/// A bulk creation may take seconds until its last user is in.
const WITHIN: Duration = Duration::from_secs(60);

/// Real clients of one server.
pub(crate) enum Clients {
    /// One Xray with an outbound for each user; a page is fetched, as VLESS and Shadowsocks answer only with data.
    Xray {
        /// The client.
        client: Box<XrayClient>,
        /// The page.
        url: String,
    },
    /// The handshake of WireGuard, each from an address of its own: a device takes 100 a second from one.
    Wireguard {
        /// Counts them.
        next: AtomicU32,
    },
}

impl Clients {
    pub(crate) async fn of(protocol: Protocol, url: String) -> Self {
        match protocol {
            Protocol::Wireguard => Self::Wireguard { next: AtomicU32::new(0) },
            Protocol::VlessReality | Protocol::Shadowsocks2022 => {
                let none: [&str; 0] = [];
                Self::Xray { client: Box::new(XrayClient::many(none).await.unwrap()), url }
            }
        }
    }

    /// Returns when the user of this link has got through.
    pub(crate) async fn get_through(&self, link: &str) -> Through<'_> {
        match self {
            Self::Xray { client, url } => {
                let tunnel = client.add(link).await.unwrap();
                tunnel.accepted(url, WITHIN).await.unwrap();
                Through(Some((client, tunnel)))
            }
            Self::Wireguard { next } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number);
                handshake(link, from.into(), WITHIN).await.unwrap();
                Through(None)
            }
        }
    }
}

/// A user who has got through.
#[must_use = "its place is given back by `leave`"]
pub(crate) struct Through<'a>(Option<(&'a XrayClient, testkit::xray_client::Tunnel)>);

impl Through<'_> {
    pub(crate) async fn leave(self) {
        if let Some((client, tunnel)) = self.0 {
            client.remove(tunnel).await;
        }
    }
}
