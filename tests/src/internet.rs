//! The sites that users want, in a network of their own: reached from here, from containers and from child
//! processes alike, as real sites are.

use std::net::IpAddr;

use testkit::{
    netns::{Namespace, Resident},
    sites::{Target, TlsSite},
};

/// The name that REALITY servers pretend to be.
pub const SITE_NAME: &str = "site.example";

/// A network with two sites.
pub struct Internet {
    // In the order in which they end.
    /// Speaks TLS 1.3: for REALITY's dest.
    pub site: Resident<TlsSite>,
    /// Pages by HTTP.
    pub target: Resident<Target>,
    address: IpAddr,
    _network: Namespace,
}

impl Internet {
    /// Lays the cable and opens the sites.
    ///
    /// # Panics
    /// Without root, which networks take.
    pub async fn open() -> Self {
        let network = Namespace::new();
        let cable = network.connect(None);
        // The cable's near end is in the sites' network, its far end in ours.
        let address = IpAddr::from(cable.near);
        network.ip(&format!("route add default via {}", cable.far));
        let site = network.host(move || TlsSite::start_on(SITE_NAME, address)).await;
        let target = network.host(move || Target::start_on(address)).await;
        Self { site, target, address, _network: network }
    }

    /// Both sites' address, which servers must let their users reach: it is not on the real internet.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}
