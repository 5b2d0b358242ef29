//! Whose handshake says that an engine has taken a user in.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use contract::Protocol;
use testkit::{
    wireguard_client::handshake,
    xray_client::{Tunnel, XrayClient},
};

/// Who is not through by then counts as having taken so long; a bulk creation may take seconds.
pub(crate) const WITHIN: Duration = Duration::from_secs(20);

/// Who has not got through by then is refused: most protocols answer the unknown with silence.
const REFUSED_AFTER: Duration = Duration::from_millis(300);

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
                Through { through, by: By::Xray { client, url, tunnel } }
            }
            Self::Wireguard { next } => {
                let through = handshake(link, another(next), WITHIN).await.is_ok();
                Through { through, by: By::Wireguard { next, link: link.to_owned() } }
            }
        }
    }
}

fn another(next: &AtomicU32) -> IpAddr {
    let number = next.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number).into()
}

/// A user who has tried.
#[must_use = "its place is given back by `leave`"]
pub(crate) struct Through<'a> {
    through: bool,
    by: By<'a>,
}

enum By<'a> {
    Xray { client: &'a XrayClient, url: &'a str, tunnel: Tunnel },
    Wireguard { next: &'a AtomicU32, link: String },
}

impl Through<'_> {
    /// Tries once more; says whether it got through.
    pub(crate) async fn again(&self) -> bool {
        match &self.by {
            By::Xray { url, tunnel, .. } => tunnel.fetch(url, REFUSED_AFTER).await.is_ok(),
            By::Wireguard { next, link } => handshake(link, another(next), REFUSED_AFTER).await.is_ok(),
        }
    }

    /// Says whether it got through.
    pub(crate) async fn leave(self) -> bool {
        if let By::Xray { client, tunnel, .. } = self.by {
            client.remove(tunnel).await;
        }
        self.through
    }
}
