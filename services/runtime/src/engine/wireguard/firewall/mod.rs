//! What a user's packets may do, in the kernel's packet filter (nf_tables).
//!
//! - [`batch`]    one transaction over netlink, and the socket that owns the table
//! - [`rule`]     the expressions that our rules are made of
//! - [`hole`]     what must be asked of the host's own firewall
//!
//! As nft(8) would write it, for the interface `IF` and its mark `MARK` ([`super::network::mark`]):
//!
//! ```text
//! table inet IF {
//!     flags owner
//!     chain prerouting  { type filter hook prerouting priority mangle;
//!         iifname IF meta mark set MARK ct mark set MARK
//!         ct mark MARK meta mark set MARK }
//!     chain output      { type route hook output priority mangle;
//!         ct mark MARK meta mark set MARK }
//!     chain input       { type filter hook input priority filter;
//!         iifname IF ip daddr SERVER icmp type echo-request accept     # and icmpv6
//!         iifname IF ip daddr @private4 reject                         # and ip6
//!         iifname IF ip daddr @allowed4 accept                         # and ip6
//!         iifname IF reject }
//!     chain forward     { type filter hook forward priority filter;
//!         iifname IF ct state established,related accept
//!         iifname IF ip daddr @private4 reject                         # and ip6
//!         iifname IF accept
//!         oifname IF ct state established,related accept
//!         oifname IF drop }
//!     chain postrouting { type nat hook postrouting priority srcnat;
//!         meta mark MARK oifname != IF masquerade }
//! }
//! ```
//!
//! where `reject` stands for two rules: a reset for TCP, which has no limit, and an ICMP error for the rest.
//!
//! The marks are for hosts with several servers: all of them have the same subnet, so the way back to a user is found
//! by who opened the connection and not by the address (`super::network`).
//!
//! The table belongs to a netlink socket (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody else can change it, and the kernel
//! removes it when the process ends, however it ends. Keeping the socket gives no right to change the table either:
//! that takes `CAP_NET_ADMIN`, which the process gives up. On older kernels the table stays, without effect once the
//! interface is gone, until the next start or [`clear`].

mod batch;
mod hole;
mod ranges;
mod rule;

use std::{io, net::IpAddr};

use contract::WireguardAddress;
use ipnet::IpNet;

use self::{
    batch::{Batch, Chain, Family, Netfilter},
    ranges::Ranges,
    rule::{ECHO_REQUEST_V4, ECHO_REQUEST_V6, Rule},
};
use super::network;
use crate::engine::private;

/// The rules of one interface. They are gone when this is.
pub(super) struct Firewall {
    _owner: Netfilter,
}

/// What users may reach.
#[derive(Debug)]
pub(super) struct Reach {
    /// Where they may not go.
    private: Vec<IpNet>,
    /// Where they may go even if it is this host.
    allowed: Vec<IpNet>,
}

impl Reach {
    /// Who allows 10.0.0.0/8 has the office's network in mind, not other users and not this host's own services at
    /// their end of the tunnel: those are reached only if a range that lies in the tunnel's subnet is allowed.
    pub(super) fn new(allow: &[IpNet], deny: &[IpAddr]) -> Self {
        let subnets = [WireguardAddress::SUBNET_V4, WireguardAddress::SUBNET_V6];
        let subnets: Vec<IpNet> = subnets.iter().filter_map(|subnet| subnet.parse().ok()).collect();
        let holds = |subnet: &IpNet, net: &IpNet| subnet.contains(net);
        let lies_inside = |net: &IpNet| subnets.iter().any(|subnet| holds(subnet, net));
        let inside: Vec<IpNet> = allow.iter().copied().filter(lies_inside).collect();

        let mut private = private::kept_from(deny, allow);
        let kept = private::kept_from(&[], &inside);
        for subnet in &subnets {
            // Networks either hold each other or have nothing in common.
            private.extend(kept.iter().filter(|net| holds(subnet, net)));
            private.extend(kept.iter().filter(|net| holds(net, subnet)).map(|_| *subnet));
        }
        private.extend(MAPPED.parse::<IpNet>());
        Self { private, allowed: allow.to_vec() }
    }
}

/// IPv4 addresses in IPv6's clothes: nothing on a wire has them (RFC 4291), so nobody needs to reach them.
const MAPPED: &str = "::ffff:0:0/96";

impl Firewall {
    /// Puts the rules in place, whole or not at all, and replaces what an earlier run may have left.
    pub(super) fn raise(interface: &str, reach: &Reach) -> io::Result<Self> {
        let mut netfilter = Netfilter::open()?;
        let raised = netfilter.apply(|batch| table(batch, interface, reach, true));
        match raised {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!(
                    "this kernel's tables have no owners: the table stays when the process is killed"
                );
                netfilter.apply(|batch| table(batch, interface, reach, false))?;
            }
            raised => raised?,
        }
        hole::make(&mut netfilter, interface)?;
        Ok(Self { _owner: netfilter })
    }
}

/// Removes what a device that has ended may have left behind.
pub(super) fn clear(interface: &str) -> io::Result<()> {
    let mut netfilter = Netfilter::open()?;
    hole::close(&mut netfilter, interface)?;
    netfilter.apply(|batch| batch.drop_table(interface))
}

fn table(batch: &mut Batch, interface: &str, reach: &Reach, owned: bool) {
    batch.drop_table(interface);
    batch.add_table(interface, owned);
    for (name, nets) in [("private", &reach.private), ("allowed", &reach.allowed)] {
        let ranges = Ranges::of(nets);
        batch.add_set(interface, &set_name(name, Family::V4), Family::V4, &ranges.v4);
        batch.add_set(interface, &set_name(name, Family::V6), Family::V6, &ranges.v6);
    }
    marks(batch, interface);
    input(batch, interface);
    forward(batch, interface);
}

fn marks(batch: &mut Batch, interface: &str) {
    let mark = network::mark(interface);
    let marked = || Rule::default().connection_marked(mark);
    batch.add_chain(interface, &Chain::PREROUTING);
    batch.add_rule(interface, &Chain::PREROUTING, from(interface).mark_packet(mark).mark_connection(mark));
    batch.add_rule(interface, &Chain::PREROUTING, marked().mark_packet(mark));
    batch.add_chain(interface, &Chain::OUTPUT);
    batch.add_rule(interface, &Chain::OUTPUT, marked().mark_packet(mark));
    let leaving = Rule::default().packet_marked(mark).not_to(interface);
    batch.add_chain(interface, &Chain::POSTROUTING);
    batch.add_rule(interface, &Chain::POSTROUTING, leaving.masquerade());
}

fn input(batch: &mut Batch, interface: &str) {
    let chain = &Chain::INPUT;
    batch.add_chain(interface, chain);
    let to_server = |address| from(interface).bound_for(address);
    let server = WireguardAddress::SERVER;
    let echo = to_server(server.v4().into()).icmp(Family::V4, ECHO_REQUEST_V4);
    batch.add_rule(interface, chain, echo.accept());
    let echo = to_server(server.v6().into()).icmp(Family::V6, ECHO_REQUEST_V6);
    batch.add_rule(interface, chain, echo.accept());
    refuse_private(batch, chain, interface);
    for family in Family::BOTH {
        let allowed = from(interface).bound_for_one_of(family, &set_name("allowed", family));
        batch.add_rule(interface, chain, allowed.accept());
    }
    refuse(batch, chain, interface, || from(interface));
}

fn forward(batch: &mut Batch, interface: &str) {
    let chain = &Chain::FORWARD;
    batch.add_chain(interface, chain);
    batch.add_rule(interface, chain, from(interface).under_way().accept());
    refuse_private(batch, chain, interface);
    batch.add_rule(interface, chain, from(interface).accept());
    batch.add_rule(interface, chain, Rule::default().to(interface).under_way().accept());
    batch.add_rule(interface, chain, Rule::default().to(interface).drop());
}

fn from(interface: &str) -> Rule {
    Rule::default().from(interface)
}

fn refuse_private(batch: &mut Batch, chain: &Chain, interface: &str) {
    for family in Family::BOTH {
        let private = set_name("private", family);
        refuse(batch, chain, interface, || from(interface).bound_for_one_of(family, &private));
    }
}

/// Says so to the user, who then need not wait for a timeout.
fn refuse(batch: &mut Batch, chain: &Chain, interface: &str, whom: impl Fn() -> Rule) {
    batch.add_rule(interface, chain, whom().reset());
    batch.add_rule(interface, chain, whom().reject());
}

fn set_name(name: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{name}4"),
        Family::V6 => format!("{name}6"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(allow: &[&str], deny: &[&str]) -> Reach {
        let allow: Vec<IpNet> = allow.iter().map(|net| net.parse().unwrap()).collect();
        let deny: Vec<IpAddr> = deny.iter().map(|address| address.parse().unwrap()).collect();
        Reach::new(&allow, &deny)
    }

    fn keeps_from(reach: &Reach, address: &str) -> bool {
        reach.private.iter().any(|net| net.contains(&address.parse::<IpAddr>().unwrap()))
    }

    #[test]
    fn other_users_are_reached_only_if_meant() {
        let meant = reach(&["10.64.0.8/30", "fd76:706e::8/126"], &["9.9.9.9"]);
        for reached in ["10.64.0.9", "fd76:706e::9", "8.8.8.8", "2a00::1"] {
            assert!(!keeps_from(&meant, reached), "{reached}");
        }
        for refused in
            ["10.64.0.2", "10.127.0.1", "10.0.0.1", "fd76:706e::2", "fd00::1", "9.9.9.9", "::ffff:1.1.1.1"]
        {
            assert!(keeps_from(&meant, refused), "{refused}");
        }
        let broad = reach(&["10.0.0.0/8", "fc00::/7"], &[]);
        for reached in ["10.0.0.1", "10.128.0.1", "fd00::1"] {
            assert!(!keeps_from(&broad, reached), "{reached}");
        }
        for refused in ["10.64.0.2", "10.127.0.1", "fd76:706e::2"] {
            assert!(keeps_from(&broad, refused), "{refused}");
        }
    }
}
