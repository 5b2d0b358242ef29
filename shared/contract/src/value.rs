//! Quantities, addresses and protocols that cannot hold a bad value.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Code, Invalid};

/// A VPN protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// VLESS with REALITY and the Vision flow, over TCP.
    #[serde(rename = "vless-reality")]
    VlessReality,
    /// Shadowsocks 2022 (SIP022) with `2022-blake3-aes-128-gcm`, over TCP and UDP.
    #[serde(rename = "shadowsocks-2022")]
    Shadowsocks2022,
    /// WireGuard, over UDP.
    #[serde(rename = "wireguard")]
    Wireguard,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::VlessReality, Self::Shadowsocks2022, Self::Wireguard];

    /// The name in links, tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VlessReality => "vless-reality",
            Self::Shadowsocks2022 => "shadowsocks-2022",
            Self::Wireguard => "wireguard",
        }
    }

    /// The transports on which its port listens.
    pub fn transports(self) -> &'static [Transport] {
        match self {
            Self::VlessReality => &[Transport::Tcp],
            Self::Shadowsocks2022 => &[Transport::Tcp, Transport::Udp],
            Self::Wireguard => &[Transport::Udp],
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == text).ok_or_else(|| {
            Invalid::new(
                Code::FLEET_SETTING_INVALID,
                text,
                "it is none of vless-reality, shadowsocks-2022, wireguard",
            )
        })
    }
}

/// A transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// An amount of data in bytes, at least 1. Read from a number or from text with a decimal or binary unit
/// (`50GB`, `50GiB`); written as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ByteCount(u64);

impl ByteCount {
    /// The largest amount: what fits a signed 64-bit number, as other programs read it.
    pub const MAX: u64 = i64::MAX as u64;

    /// The bytes.
    pub fn get(self) -> u64 {
        self.0
    }

    /// A count that a program made itself; zero and what is above [`Self::MAX`] are brought into range.
    pub const fn clamped(bytes: u64) -> Self {
        if bytes == 0 {
            Self(1)
        } else if bytes > Self::MAX {
            Self(Self::MAX)
        } else {
            Self(bytes)
        }
    }
}

impl TryFrom<u64> for ByteCount {
    type Error = Invalid;

    fn try_from(bytes: u64) -> Result<Self, Invalid> {
        let refuse = |why| Err(Invalid::new(Code::USERS_QUOTA_INVALID, &bytes.to_string(), why));
        match bytes {
            0 => refuse("it is nothing; leave the quota out for no limit"),
            1..=Self::MAX => Ok(Self(bytes)),
            _ => refuse("it is more than 8 EiB"),
        }
    }
}

impl FromStr for ByteCount {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let size: bytesize::ByteSize = text.parse().map_err(|_| {
            Invalid::new(
                Code::USERS_QUOTA_INVALID,
                text,
                "it is not a number of bytes with or without a unit",
            )
        })?;
        size.as_u64().try_into()
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&bytesize::ByteSize::b(self.0).display().si().to_string())
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or text such as \"50GB\"")
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteCount, E> {
                bytes.try_into().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteCount, E> {
                let why = "it is negative";
                u64::try_from(bytes)
                    .map_err(|_| Invalid::new(Code::USERS_QUOTA_INVALID, &bytes.to_string(), why))
                    .and_then(ByteCount::try_from)
                    .map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, bytes: f64) -> Result<ByteCount, E> {
                let why = "it is not a whole number of bytes, or too large";
                Err(E::custom(Invalid::new(Code::USERS_QUOTA_INVALID, &bytes.to_string(), why)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteCount, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A port that a server listens on: 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Port(NonZeroU16);

impl Port {
    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u64> for Port {
    type Error = Invalid;

    fn try_from(number: u64) -> Result<Self, Invalid> {
        u16::try_from(number).ok().and_then(NonZeroU16::new).map(Self).ok_or_else(|| {
            Invalid::new(Code::FLEET_PORT_INVALID, &number.to_string(), "a port is 1 to 65535")
        })
    }
}

impl FromStr for Port {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |_| Invalid::new(Code::FLEET_PORT_INVALID, text, "a port is a number from 1 to 65535");
        text.parse::<u64>().map_err(refuse)?.try_into()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        u64::try_from(number)
            .map_err(|_| Invalid::new(Code::FLEET_PORT_INVALID, &number.to_string(), "a port is 1 to 65535"))
            .and_then(Self::try_from)
            .map_err(de::Error::custom)
    }
}

/// A host name or address with a port: `www.example.org:443`, `192.0.2.1:443`, `[2001:db8::1]:443`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: Box<str>,
    port: Port,
}

impl HostPort {
    /// The host without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> Port {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |why| Invalid::new(Code::FLEET_ADDRESS_INVALID, text, why);
        let (host, port) = text.rsplit_once(':').ok_or_else(|| refuse("it has no port"))?;
        let port = port.parse().map_err(|_| refuse("its port is not a number from 1 to 65535"))?;
        let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(refuse("what is in brackets is not an IPv6 address")),
            None if is_host_name(host) => host,
            None => return Err(refuse("its host is neither a name nor an address")),
        };
        Ok(Self { host: host.into(), port })
    }
}

/// Whether `text` is a host name of RFC 1123 (an IPv4 address has the same shape).
pub fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The place of a user in every WireGuard subnet: one /32 and one /128, the same on all servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WireguardAddress(u32);

impl WireguardAddress {
    /// Servers have this place.
    pub const SERVER: Self = Self(1);
    /// The first place that a user can have.
    pub const FIRST: u32 = 2;
    /// The last place that a user can have: 10.64.0.0/10 holds four million.
    pub const LAST: u32 = (1 << 22) - 2;
    /// The IPv4 subnet that all places lie in.
    pub const SUBNET_V4: &str = "10.64.0.0/10";
    /// The IPv6 subnet that all places lie in (a unique local one, RFC 4193).
    pub const SUBNET_V6: &str = "fd76:706e::/64";

    /// The place with this number, if a user can have it.
    pub fn new(place: u32) -> Option<Self> {
        (Self::FIRST..=Self::LAST).contains(&place).then_some(Self(place))
    }

    /// Its number.
    pub fn place(self) -> u32 {
        self.0
    }

    /// The IPv4 address.
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 0).to_bits() | self.0)
    }

    /// The IPv6 address.
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(Ipv6Addr::new(0xfd76, 0x706e, 0, 0, 0, 0, 0, 0).to_bits() | u128::from(self.0))
    }

    /// Both.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_with_both_kinds_of_units() {
        let read = |json: &str| serde_json::from_str::<ByteCount>(json).map(ByteCount::get);
        assert_eq!(read("1").unwrap(), 1);
        assert_eq!(read("\"50GB\"").unwrap(), 50_000_000_000);
        assert_eq!(read("\"50GiB\"").unwrap(), 50 * 1024 * 1024 * 1024);
        for bad in
            ["0", "-1", "1.5", "9223372036854775808", "18446744073709551616", "\"lots\"", "\"-1GB\"", "null"]
        {
            let error = read(bad).unwrap_err().to_string();
            assert!(bad == "null" || error.starts_with("users.quota_invalid: "), "{bad}: {error}");
        }
    }

    #[test]
    fn bad_addresses_are_refused() {
        for bad in
            ["", ":443", "host", "host:0", "host:65536", "[::1:443", "::1:443", "a b:1", "../x:1", "-a.b:1"]
        {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
        for good in ["www.example.org:443", "192.0.2.1:443", "[2001:db8::1]:443"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn places_lie_in_their_subnets() {
        let v4: ipnet::IpNet = WireguardAddress::SUBNET_V4.parse().unwrap();
        let v6: ipnet::IpNet = WireguardAddress::SUBNET_V6.parse().unwrap();
        for place in [WireguardAddress::FIRST, 300, WireguardAddress::LAST] {
            let address = WireguardAddress::new(place).unwrap();
            assert!(v4.contains(&IpAddr::from(address.v4())) && v6.contains(&IpAddr::from(address.v6())));
        }
        assert_eq!(WireguardAddress::new(1), None);
        assert_eq!(WireguardAddress::new(WireguardAddress::LAST + 1), None);
    }

    proptest! {
        #[test]
        fn amounts_survive_json(bytes in 1..=ByteCount::MAX) {
            let count = ByteCount::try_from(bytes).unwrap();
            let json = serde_json::to_string(&count).unwrap();
            prop_assert_eq!(serde_json::from_str::<ByteCount>(&json).unwrap(), count);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<ByteCount>();
            let _ = text.parse::<HostPort>();
            let _ = text.parse::<Port>();
        }
    }
}
