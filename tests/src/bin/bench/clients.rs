//! Whose handshake says that an engine has taken a user in.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use contract::Protocol;
use testkit::{wireguard_client::handshake, xray_client::XrayClient};

/// Who is not through by then counts as having taken so long; a bulk creation may take seconds.
pub(crate) const WITHIN: Duration = Duration::from_secs(20);

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

    /// Returns when the user of this link has got through, or has not for [`WITHIN`].
    pub(crate) async fn get_through(&self, link: &str) -> Through<'_> {
        match self {
            Self::Xray { client, url } => {
                let tunnel = client.add(link).await.unwrap();
                let through = tunnel.accepted(url, WITHIN).await.is_ok();
                Through { through, leaves: Some((client, tunnel)) }
            }
            Self::Wireguard { next } => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number);
                let through = handshake(link, from.into(), WITHIN).await.is_ok();
                Through { through, leaves: None }
            }
        }
    }
}

/// A user who has tried.
#[must_use = "its place is given back by `leave`"]
pub(crate) struct Through<'a> {
    through: bool,
    leaves: Option<(&'a XrayClient, testkit::xray_client::Tunnel)>,
}

impl Through<'_> {
    /// Says whether it got through.
    pub(crate) async fn leave(self) -> bool {
        if let Some((client, tunnel)) = self.leaves {
            client.remove(tunnel).await;
        }
        self.through
    }
}
