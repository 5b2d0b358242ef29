//! The expressions that our rules are made of, each a few instructions for the kernel's small machine.
//!
//! The numbers are of `linux/netfilter/nf_tables.h` and its neighbours; the shapes are what nft(8) makes of the same
//! words, so that it can show them.

use std::net::IpAddr;

use super::{super::netlink::Attributes, batch::Family};

/// `IFNAMSIZ`, the size of a name in the kernel.
const NAME_SIZE: usize = 16;
/// Of ICMP (RFC 792).
pub(super) const ECHO_REQUEST_V4: u8 = 8;
/// Of ICMPv6 (RFC 4443).
pub(super) const ECHO_REQUEST_V6: u8 = 128;

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_ICMPV6: u8 = 58;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED)`
const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
/// `NFT_REG_VERDICT` and `NFT_REG_1`: one register is enough for each of our conditions.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
/// `NFTA_DATA_VALUE`
const VALUE: u16 = 1;

/// `NFT_META_*`
#[derive(Clone, Copy)]
enum Meta {
    Mark = 3,
    FromInterface = 6,
    ToInterface = 7,
    Family = 15,
    Transport = 16,
}

/// `NFT_CT_*`
#[derive(Clone, Copy)]
enum Connection {
    State = 0,
    Mark = 3,
}

/// `NFT_CMP_*`
#[derive(Clone, Copy)]
enum Is {
    Equal = 0,
    Different = 1,
}

/// `NFT_PAYLOAD_*`
#[derive(Clone, Copy)]
enum Header {
    Network = 1,
    Transport = 2,
}

/// A rule under construction: conditions first, then what to do.
#[derive(Debug, Default)]
pub(super) struct Rule(Attributes);

impl Rule {
    /// What stands in `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn expressions(&self) -> &Attributes {
        &self.0
    }

    /// `iifname`
    pub(super) fn from(self, interface: &str) -> Self {
        self.meta(Meta::FromInterface).compare(Is::Equal, &padded(interface))
    }

    /// `oifname`
    pub(super) fn to(self, interface: &str) -> Self {
        self.meta(Meta::ToInterface).compare(Is::Equal, &padded(interface))
    }

    /// `oifname !=`
    pub(super) fn not_to(self, interface: &str) -> Self {
        self.meta(Meta::ToInterface).compare(Is::Different, &padded(interface))
    }

    /// `ip daddr`, `ip6 daddr`
    pub(super) fn bound_for(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.destination(Family::V4).compare(Is::Equal, &address.octets()),
            IpAddr::V6(address) => self.destination(Family::V6).compare(Is::Equal, &address.octets()),
        }
    }

    /// `ip daddr @set`, `ip6 daddr @set`
    pub(super) fn bound_for_one_of(self, family: Family, set: &str) -> Self {
        // NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG
        let lookup = Attributes::new().text(1, set).be32(2, REGISTER);
        self.destination(family).expression("lookup", &lookup)
    }

    /// `icmp type`, `icmpv6 type`
    pub(super) fn icmp(self, family: Family, kind: u8) -> Self {
        let protocol = match family {
            Family::V4 => IPPROTO_ICMP,
            Family::V6 => IPPROTO_ICMPV6,
        };
        self.meta(Meta::Transport)
            .compare(Is::Equal, &[protocol])
            .payload(Header::Transport, 0, 1)
            .compare(Is::Equal, &[kind])
    }

    /// `ct state established,related`
    pub(super) fn under_way(self) -> Self {
        // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR
        let masked = Attributes::new()
            .be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, 4)
            .nest(4, &Attributes::new().ne32(VALUE, ESTABLISHED_OR_RELATED))
            .nest(5, &Attributes::new().ne32(VALUE, 0));
        let loaded = self.connection(Connection::State);
        loaded.expression("bitwise", &masked).compare(Is::Different, &0_u32.to_ne_bytes())
    }

    /// `meta mark`
    pub(super) fn packet_marked(self, mark: u32) -> Self {
        self.meta(Meta::Mark).compare(Is::Equal, &mark.to_ne_bytes())
    }

    /// `ct mark`
    pub(super) fn connection_marked(self, mark: u32) -> Self {
        self.connection(Connection::Mark).compare(Is::Equal, &mark.to_ne_bytes())
    }

    /// `meta mark set`
    pub(super) fn mark_packet(self, mark: u32) -> Self {
        // NFTA_META_KEY, NFTA_META_SREG
        let set = Attributes::new().be32(2, Meta::Mark as u32).be32(3, REGISTER);
        self.immediate(mark).expression("meta", &set)
    }

    /// `ct mark set`
    pub(super) fn mark_connection(self, mark: u32) -> Self {
        // NFTA_CT_KEY, NFTA_CT_SREG
        let set = Attributes::new().be32(2, Connection::Mark as u32).be32(4, REGISTER);
        self.immediate(mark).expression("ct", &set)
    }

    /// `masquerade`
    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", &Attributes::new())
    }

    /// `meta l4proto tcp reject with tcp reset`: Linux sends these however many there are.
    pub(super) fn reset(self) -> Self {
        // NFTA_REJECT_TYPE: NFT_REJECT_TCP_RST
        let tcp = self.meta(Meta::Transport).compare(Is::Equal, &[IPPROTO_TCP]);
        tcp.expression("reject", &Attributes::new().be32(1, 1))
    }

    /// `reject with icmpx admin-prohibited`
    pub(super) fn reject(self) -> Self {
        // NFTA_REJECT_TYPE: NFT_REJECT_ICMPX_UNREACH; NFTA_REJECT_ICMP_CODE: NFT_REJECT_ICMPX_ADMIN_PROHIBITED
        self.expression("reject", &Attributes::new().be32(1, 2).bytes(2, &[3]))
    }

    /// `accept`
    pub(super) fn accept(self) -> Self {
        self.verdict(super::batch::ACCEPT)
    }

    /// `drop`
    pub(super) fn drop(self) -> Self {
        self.verdict(super::batch::DROP)
    }

    fn verdict(self, code: u32) -> Self {
        // NFTA_IMMEDIATE_DREG, _DATA; NFTA_DATA_VERDICT; NFTA_VERDICT_CODE
        let verdict = Attributes::new().nest(2, &Attributes::new().be32(1, code));
        self.expression("immediate", &Attributes::new().be32(1, VERDICT).nest(2, &verdict))
    }

    fn immediate(self, value: u32) -> Self {
        let data = Attributes::new().ne32(VALUE, value);
        self.expression("immediate", &Attributes::new().be32(1, REGISTER).nest(2, &data))
    }

    fn meta(self, key: Meta) -> Self {
        // NFTA_META_DREG, NFTA_META_KEY
        self.expression("meta", &Attributes::new().be32(1, REGISTER).be32(2, key as u32))
    }

    fn connection(self, key: Connection) -> Self {
        // NFTA_CT_DREG, NFTA_CT_KEY
        self.expression("ct", &Attributes::new().be32(1, REGISTER).be32(2, key as u32))
    }

    fn destination(self, family: Family) -> Self {
        let (offset, length) = match family {
            Family::V4 => (16, 4),
            Family::V6 => (24, 16),
        };
        self.meta(Meta::Family).compare(Is::Equal, &[family.number()]).payload(
            Header::Network,
            offset,
            length,
        )
    }

    fn payload(self, header: Header, offset: u32, length: u32) -> Self {
        // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN
        let load = Attributes::new().be32(1, REGISTER).be32(2, header as u32).be32(3, offset).be32(4, length);
        self.expression("payload", &load)
    }

    fn compare(self, is: Is, value: &[u8]) -> Self {
        // NFTA_CMP_SREG, _OP, _DATA
        let data = Attributes::new().bytes(VALUE, value);
        self.expression("cmp", &Attributes::new().be32(1, REGISTER).be32(2, is as u32).nest(3, &data))
    }

    fn expression(self, name: &str, data: &Attributes) -> Self {
        // NFTA_LIST_ELEM; NFTA_EXPR_NAME, NFTA_EXPR_DATA
        Self(self.0.nest(1, &Attributes::new().text(1, name).nest(2, data)))
    }
}

/// A name as the kernel compares it.
pub(super) fn padded(interface: &str) -> [u8; NAME_SIZE] {
    let mut name = [0; NAME_SIZE];
    for (to, from) in name.iter_mut().zip(interface.bytes().take(NAME_SIZE - 1)) {
        *to = from;
    }
    name
}
