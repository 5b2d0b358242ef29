//! Where this node is: the address that links carry, and the addresses that users are kept from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use contract::fleet::{AddressSource, PublicAddress};

/// Somewhere on the internet. Nothing is sent there: the kernel only says from which address it would be.
const SOMEWHERE: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8))),
    (
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    ),
];
const ANY_PORT: u16 = 9;

/// The name or address that links carry: the given one, else that of the interface with the default route, else
/// the loopback's, which is right for who tries things out on one machine.
pub(crate) fn public(given: Option<&str>) -> PublicAddress {
    if let Some(host) = given {
        return PublicAddress { host: host.to_owned(), source: AddressSource::Given };
    }
    let detected = SOMEWHERE.into_iter().find_map(|(from, to)| way_out(from, to));
    let host = detected.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string();
    PublicAddress { host, source: AddressSource::Detected }
}

fn way_out(from: IpAddr, to: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).ok()?;
    socket.connect(SocketAddr::new(to, ANY_PORT)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// All addresses of this node. What listens there is for the node itself and for its operators.
pub(crate) fn own() -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the node's own addresses are not known: users are not kept from them");
            return Vec::new();
        }
    };
    let mut addresses: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_address_is_taken_and_a_detected_one_says_so() {
        let given = public(Some("vpn.example.org"));
        assert_eq!((given.host.as_str(), given.source), ("vpn.example.org", AddressSource::Given));
        let detected = public(None);
        assert_eq!(detected.source, AddressSource::Detected);
        assert!(own().contains(&detected.host.parse().unwrap()), "{detected:?} is one of ours");
    }
}
