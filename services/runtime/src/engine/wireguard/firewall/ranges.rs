//! Networks as the kernel's interval sets want them: ranges that neither overlap nor touch.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// First addresses, and the addresses after the last ones; none after the very last address that there is.
pub(super) type Intervals = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The intervals of both families.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) v4: Intervals,
    pub(super) v6: Intervals,
}

impl Ranges {
    pub(super) fn of(nets: &[IpNet]) -> Self {
        let v4 = nets.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some((net.network().to_bits().into(), net.broadcast().to_bits().into())),
            IpNet::V6(_) => None,
        });
        let v6 = nets.iter().filter_map(|net| match net {
            IpNet::V6(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
            IpNet::V4(_) => None,
        });
        let bytes_v4 =
            |bits: u128| u32::try_from(bits).ok().map(|bits| Ipv4Addr::from_bits(bits).octets().to_vec());
        let bytes_v6 = |bits: u128| Some(Ipv6Addr::from_bits(bits).octets().to_vec());
        Self { v4: intervals(v4.collect(), bytes_v4), v6: intervals(v6.collect(), bytes_v6) }
    }
}

fn intervals(mut ranges: Vec<(u128, u128)>, bytes: impl Fn(u128) -> Option<Vec<u8>>) -> Intervals {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let interval = |(first, last): (u128, u128)| Some((bytes(first)?, last.checked_add(1).and_then(&bytes)));
    merged.into_iter().filter_map(interval).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_and_the_last_range_is_open() {
        let nets = ["240.0.0.0/4", "10.0.0.0/8", "11.0.0.0/8", "10.64.0.0/10", "ff00::/8", "::1/128"];
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let ranges = Ranges::of(&nets);
        assert_eq!(ranges.v4, [(vec![10, 0, 0, 0], Some(vec![12, 0, 0, 0])), (vec![240, 0, 0, 0], None)]);
        let one = Ipv6Addr::LOCALHOST.octets().to_vec();
        let two = Ipv6Addr::from_bits(2).octets().to_vec();
        assert_eq!(ranges.v6, [(one, Some(two)), (Ipv6Addr::from_bits(0xff << 120).octets().to_vec(), None)]);
    }
}
