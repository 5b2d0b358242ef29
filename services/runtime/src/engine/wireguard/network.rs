//! Addresses, routes and the kernel's settings, so that packets find their way between the tunnel and the world.
//!
//! Every server has the same addresses and the same subnet, because a user has one address on all of them. Where two
//! share a network (child processes of one host), a route by address would lead to one of them only, and it would take
//! from the host whatever part of 10.64.0.0/10 it has a use for itself. So each server has a routing table of its own,
//! for packets that bear its mark, and `super::firewall` marks what belongs to its users.
//!
//! The routes are gone with the interface. The rules that lead marked packets to the table stay when the process ends:
//! it has given up the right to remove them. Without marked packets, and without the table, they have no effect, and
//! [`clear`] removes them.

use std::{fs, io, net::IpAddr, path::Path};

use contract::WireguardAddress;
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::netlink::{self, Attributes, CREATE, EXCLUSIVE, Message, Netlink, REPLACE};

/// What fits into an Ethernet frame of 1500 bytes with IPv6, UDP and WireGuard around it (80 bytes): wg-quick's.
pub(super) const MTU: u16 = 1420;

/// Before the main table (32766), and behind everything that others want to come first.
const RULE_PRIORITY: u32 = 30_000;

// Of rtnetlink(7).
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
/// `IFA_F_NODAD`: nobody else is on the link to have the address.
const NO_DUPLICATES: u32 = 0x2;
/// `IFA_F_NOPREFIXROUTE`: no route to the subnet in the main table.
const NO_ROUTE: u32 = 0x200;
/// `RTPROT_STATIC`: made by an administrator, or somebody in his place.
const STATIC: u8 = 4;
/// `RT_SCOPE_LINK`: directly reachable, which is all that a tunnel knows.
const SCOPE_LINK: u8 = 253;
/// `RTN_UNICAST`
const UNICAST: u8 = 1;
/// `FR_ACT_TO_TBL`
const TO_TABLE: u8 = 1;

const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;

/// The mark of packets that belong to an interface's users, and the number of its routing table.
///
/// The first byte tells our marks from others'. Bits 14 and 15 stay clear: kube-proxy takes packets with one of them
/// for its own.
pub(super) fn mark(interface: &str) -> u32 {
    let [a, b, c, ..] = Sha256::digest(interface).0;
    u32::from_be_bytes([0x56, a, b, c]) & !0xc000
}

/// One of the interface's subnets.
struct Subnet {
    server: IpAddr,
    net: IpNet,
}

impl Subnet {
    fn both() -> Vec<Self> {
        let subnets = [WireguardAddress::SUBNET_V4, WireguardAddress::SUBNET_V6];
        let subnets = subnets.into_iter().zip(WireguardAddress::SERVER.both());
        subnets.filter_map(|(net, server)| Some(Self { server, net: net.parse().ok()? })).collect()
    }

    fn family(&self) -> u8 {
        match self.server {
            IpAddr::V4(_) => 2,
            IpAddr::V6(_) => 10,
        }
    }
}

/// Gives the interface its addresses and its routes, and lets the kernel forward.
pub(super) fn set_up(interface: &str, index: u32) -> io::Result<()> {
    let mut routing = Netlink::open(Netlink::ROUTE)?;
    require("net/ipv4/ip_forward", "1")?;
    // Strict reverse path checks, where the host has them, must look at the mark to find the right table. In a
    // container this can't be written; there is one server in it, for which the main table will do.
    let marks_count = write(&format!("net/ipv4/conf/{interface}/src_valid_mark"), "1").is_ok();
    for subnet in Subnet::both() {
        if subnet.server.is_ipv6()
            && let Err(error) = forward_v6(interface)
        {
            tracing::info!(%error, "users have no IPv6: the host does not forward it");
            continue;
        }
        connect(&mut routing, interface, index, &subnet, marks_count)?;
    }
    Ok(())
}

/// Removes what an interface that is gone has left.
pub(super) fn clear(interface: &str) -> io::Result<()> {
    let mut routing = Netlink::open(Netlink::ROUTE)?;
    Subnet::both().iter().try_for_each(|subnet| remove_rules(&mut routing, interface, subnet))
}

fn connect(
    routing: &mut Netlink,
    interface: &str,
    index: u32,
    subnet: &Subnet,
    marks_count: bool,
) -> io::Result<()> {
    let (family, prefix) = (subnet.family(), subnet.net.prefix_len());
    let flags = if marks_count { NO_DUPLICATES | NO_ROUTE } else { NO_DUPLICATES };
    // struct ifaddrmsg: family, prefix, flags, scope, index; IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS
    let header = [&[family, prefix, 0, 0][..], &index.to_ne_bytes()].concat();
    let address = bytes(subnet.server);
    let address = Attributes::new().bytes(1, &address).bytes(2, &address).ne32(8, flags);
    let address = Message::new(NEW_ADDRESS, CREATE | REPLACE, &header, &address);

    // struct rtmsg: family, prefixes of destination and source, tos, table, protocol, scope, type, flags; RTA_DST,
    // RTA_OIF, RTA_TABLE
    let header = [family, prefix, 0, 0, 0, STATIC, SCOPE_LINK, UNICAST, 0, 0, 0, 0];
    let route = Attributes::new().bytes(1, &bytes(subnet.net.network())).ne32(4, index);
    let route = Message::new(NEW_ROUTE, CREATE | REPLACE, &header, &route.ne32(15, mark(interface)));

    remove_rules(routing, interface, subnet)?;
    routing.send(&[address, route, rule(NEW_RULE, CREATE | EXCLUSIVE, interface, subnet)])
}

/// All that earlier runs have made, for there is no replacing a rule.
fn remove_rules(routing: &mut Netlink, interface: &str, subnet: &Subnet) -> io::Result<()> {
    loop {
        match routing.send(&[rule(DELETE_RULE, 0, interface, subnet)]) {
            Ok(()) => {}
            Err(error) => match netlink::code(&error) {
                // The latter two are what a kernel without IPv6 says.
                Some(ENOENT | EAFNOSUPPORT | EOPNOTSUPP) => return Ok(()),
                _ => return Err(error),
            },
        }
    }
}

/// "Who bears the mark, look into the table of that number."
fn rule(kind: u16, flags: u16, interface: &str, subnet: &Subnet) -> Message {
    let mark = mark(interface);
    // struct fib_rule_hdr: family, prefixes of destination and source, tos, table, reserved, action, flags; FRA_PRIORITY,
    // FRA_FWMARK, FRA_TABLE, FRA_FWMASK
    let header = [subnet.family(), 0, 0, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
    let marked = Attributes::new().ne32(6, RULE_PRIORITY).ne32(10, mark).ne32(15, mark).ne32(16, u32::MAX);
    Message::new(kind, flags, &header, &marked)
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn forward_v6(interface: &str) -> io::Result<()> {
    if read(&format!("net/ipv6/conf/{interface}/disable_ipv6"))? != "0" {
        write(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
    }
    if read("net/ipv6/conf/all/forwarding")? == "1" {
        return Ok(());
    }
    // A host that forwards ignores router advertisements, unless told otherwise (2), and would lose its own way out.
    for interface in fs::read_dir(setting("net/ipv6/conf"))? {
        let accepts = interface?.path().join("accept_ra");
        if fs::read_to_string(&accepts).is_ok_and(|value| value.trim() == "1") {
            fs::write(&accepts, "2")?;
        }
    }
    write("net/ipv6/conf/all/forwarding", "1")
}

/// Makes sure of a setting: reads it first, because a container's are set from outside and read-only.
fn require(name: &str, value: &str) -> io::Result<()> {
    if read(name)? == value { Ok(()) } else { write(name, value) }
}

fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(setting(name))
        .map(|value| value.trim().to_owned())
        .map_err(|error| named(name, &error))
}

fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(setting(name), value).map_err(|error| named(name, &error))
}

fn setting(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(name)
}

fn named(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", name.replace('/', ".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_ours_and_differ() {
        let marks: Vec<u32> = (0..100).map(|number| mark(&format!("vpn{number}"))).collect();
        assert!(marks.iter().all(|mark| mark >> 24 == 0x56 && mark & 0xc000 == 0));
        let different: std::collections::BTreeSet<_> = marks.iter().collect();
        assert_eq!(different.len(), marks.len());
    }
}
