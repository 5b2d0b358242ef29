//! Destinations that users of a VPN server are kept from: whatever is not the public internet.
//!
//! The ranges are IANA's special-purpose registries (RFC 6890 and its successors) where they say "not globally
//! reachable", multicast, and what clouds keep for themselves. The forms in which IPv6 carries an IPv4 address
//! across a translator are private when the address is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const V4: [Ipv4Net; 16] = [
    v4([0, 0, 0, 0], 8),        // this host: Linux takes 0.0.0.0 for loopback
    v4([10, 0, 0, 0], 8),       // RFC 1918; holds WireGuard's subnet
    v4([100, 64, 0, 0], 10),    // carrier-grade NAT; Alibaba's metadata
    v4([127, 0, 0, 0], 8),      // loopback
    v4([168, 63, 129, 16], 32), // Azure's host, metadata by another name
    v4([169, 254, 0, 0], 16),   // link-local; the clouds' metadata
    v4([172, 16, 0, 0], 12),    // RFC 1918
    v4([192, 0, 0, 0], 24),     // protocol assignments; Oracle's metadata
    v4([192, 0, 2, 0], 24),     // documentation
    v4([192, 88, 99, 0], 24),   // 6to4 relays, deprecated
    v4([192, 168, 0, 0], 16),   // RFC 1918
    v4([198, 18, 0, 0], 15),    // benchmarks
    v4([198, 51, 100, 0], 24),  // documentation
    v4([203, 0, 113, 0], 24),   // documentation
    v4([224, 0, 0, 0], 4),      // multicast
    v4([240, 0, 0, 0], 4),      // reserved, and broadcast
];

const V6: [Ipv6Net; 13] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96), // unspecified, loopback, IPv4-compatible
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), // IPv4-translated (RFC 7915)
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), // local-use translation
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), // discard
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // protocol assignments, Teredo
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), // 6to4, deprecated
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // documentation
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), // segment routing
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), // unique local; holds WireGuard's subnet and AWS's metadata
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), // link-local
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), // site-local, deprecated
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), // multicast
];

/// Where a NAT64 gateway finds the IPv4 address: in the last 32 bits behind this (RFC 6052).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// The destinations to keep users from: all private ones and the node's `own` addresses, without what the server
/// allows. Sorted, no overlaps.
///
/// IPv4-mapped IPv6 addresses (`::ffff:0:0/96`) are not in it: they are IPv4 addresses to whoever connects, and
/// whoever filters has to read them as such.
pub fn kept_from(own: &[IpAddr], allowed: &[IpNet]) -> Vec<IpNet> {
    let translated = V4.iter().map(|net| {
        let [a, b, c, d] = net.addr().octets().map(u16::from);
        let [p0, p1, p2, p3, p4, p5] = NAT64;
        v6([p0, p1, p2, p3, p4, p5, a << 8 | b, c << 8 | d], 96 + net.prefix_len())
    });
    let ranges = V4.iter().copied().map(IpNet::from);
    let ranges = ranges.chain(V6.iter().copied().chain(translated).map(IpNet::from));
    let mut kept: Vec<IpNet> = ranges.chain(own.iter().map(|ip| IpNet::from(ip.to_canonical()))).collect();
    for hole in allowed {
        kept = kept.into_iter().flat_map(|net| without(net, hole.trunc())).collect();
    }
    let mut kept = IpNet::aggregate(&kept);
    kept.sort();
    kept
}

/// What is left of `net`.
fn without(net: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&net) {
        return Vec::new();
    }
    if !net.contains(&hole) {
        return vec![net];
    }
    // A step for each bit between them, 128 at most: one half is kept whole, the other goes on.
    net.subnets(net.prefix_len() + 1).into_iter().flatten().flat_map(|half| without(half, hole)).collect()
}

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

#[cfg(test)]
mod tests {
    use contract::WireguardAddress;
    use proptest::prelude::*;

    use super::*;

    fn keeps_from(kept: &[IpNet], address: &str) -> bool {
        kept.iter().any(|net| net.contains(&address.parse::<IpAddr>().unwrap()))
    }

    #[test]
    fn nothing_private_is_left_out() {
        let kept = kept_from(&["9.9.9.10".parse().unwrap()], &[]);
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "9.9.9.10",
        ] {
            assert!(keeps_from(&kept, private), "{private}");
        }
        for public in [
            "1.1.1.1",
            "9.9.9.9",
            "172.32.0.1",
            "100.128.0.1",
            "64:ff9b::808:808",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert!(!keeps_from(&kept, public), "{public}");
        }
        let subnets = [WireguardAddress::SUBNET_V4, WireguardAddress::SUBNET_V6];
        for subnet in subnets.map(|subnet| subnet.parse::<IpNet>().unwrap()) {
            assert!(kept.iter().any(|net| net.contains(&subnet)), "{subnet}");
        }
    }

    #[test]
    fn what_is_allowed_is_left_out_and_nothing_beside_it() {
        let allowed: Vec<IpNet> =
            ["127.0.0.2/32", "10.0.0.0/7", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        let kept = kept_from(&["10.0.0.9".parse().unwrap(), "8.8.8.9".parse().unwrap()], &allowed);
        for reachable in ["127.0.0.2", "10.255.0.1", "10.0.0.9", "fd12::1"] {
            assert!(!keeps_from(&kept, reachable), "{reachable}");
        }
        for blocked in ["127.0.0.1", "127.0.0.3", "fc00::1", "8.8.8.9"] {
            assert!(keeps_from(&kept, blocked), "{blocked}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_kept_unless_a_range_that_holds_it_is_allowed(
            address in any::<u32>(),
            holes in proptest::collection::vec((any::<u32>(), 1_u8..=32), 0..4),
        ) {
            let address = IpAddr::from(Ipv4Addr::from_bits(address));
            let holes: Vec<IpNet> =
                holes.iter().map(|(bits, prefix)| IpNet::new(Ipv4Addr::from_bits(*bits).into(), *prefix).unwrap()).collect();
            let expected = V4.iter().any(|net| IpNet::from(*net).contains(&address))
                && !holes.iter().any(|hole| hole.contains(&address));
            let kept = kept_from(&[], &holes);
            prop_assert_eq!(kept.iter().any(|net| net.contains(&address)), expected);
        }
    }
}
