//! The sites that users want, in a network of their own: reached from here, from containers and from child
//! processes alike, as real sites are.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

use testkit::{
    netns::{Cable, Namespace, Resident},
    programs::program,
    sites::{Target, TlsSite},
};

use crate::programs::said;

/// The name that REALITY servers pretend to be.
pub const SITE_NAME: &str = "site.example";

/// A network with two sites.
pub struct Internet {
    // In the order in which they end.
    /// Speaks TLS 1.3: for REALITY's dest.
    pub site: Resident<TlsSite>,
    /// Pages by HTTP.
    pub target: Resident<Target>,
    cable: Cable,
    network: Namespace,
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
        Self { site, target, cable, network }
    }

    /// Both sites' address, which servers must let their users reach: it is not on the real internet.
    pub fn address(&self) -> IpAddr {
        self.cable.near.into()
    }

    /// It is at this address, too, by a route from here that goes with it.
    ///
    /// # Panics
    /// Where there is a route to that address already.
    pub fn also_at(&self, address: Ipv4Addr) {
        self.network.ip(&format!("addr add {address}/32 dev lo"));
        let (way, to) = (self.cable.near.to_string(), format!("{address}/32"));
        let mut ip = Command::new(program("ip"));
        said(ip.args(["route", "add", &to, "via", &way, "dev", &self.cable.far_interface])).unwrap();
    }

    /// Opens something else in it.
    pub async fn host<T, F>(&self, open: impl FnOnce() -> F + Send + 'static) -> Resident<T>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T>,
    {
        self.network.host(open).await
    }
}
