//! One transaction with the kernel's packet filter, and the socket that it goes through.
//!
//! The numbers are of `linux/netfilter/nf_tables.h`.

use std::io;

use super::{
    super::netlink::{APPEND, Attributes, CREATE, Message, Netlink},
    ranges::Intervals,
    rule::Rule,
};

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
const INET: u8 = 1;
/// `NFT_TABLE_F_OWNER`
const OWNED: u32 = 2;
/// `NFT_SET_CONSTANT | NFT_SET_INTERVAL`
const CONSTANT_INTERVALS: u32 = 2 | 4;
/// `NFT_SET_ELEM_INTERVAL_END`
const INTERVAL_END: u32 = 1;
/// Elements of a set in one message: an attribute holds 64 KiB, and an interval takes 72 bytes at most.
const ELEMENTS: usize = 256;

/// `NF_DROP`
pub(super) const DROP: u32 = 0;
/// `NF_ACCEPT`
pub(super) const ACCEPT: u32 = 1;

/// `NFT_MSG_*`
#[derive(Clone, Copy)]
enum Verb {
    NewTable = 0,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
    DeleteRule = 8,
    NewSet = 9,
    NewElements = 12,
}

impl Verb {
    fn message(self, flags: u16, family: u8, attributes: &Attributes) -> Message {
        Message::new(SUBSYSTEM << 8 | self as u16, flags, &[family, 0, 0, 0], attributes)
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`
    pub(super) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// What nft(8) calls the type of an address, and its size.
    fn set_key(self) -> (u32, u32) {
        match self {
            Self::V4 => (7, 4),
            Self::V6 => (8, 16),
        }
    }
}

/// A chain that the kernel calls by itself.
pub(super) struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

impl Chain {
    pub(super) const PREROUTING: Self = Self { name: "prerouting", kind: "filter", hook: 0, priority: -150 };
    pub(super) const INPUT: Self = Self { name: "input", kind: "filter", hook: 1, priority: 0 };
    pub(super) const FORWARD: Self = Self { name: "forward", kind: "filter", hook: 2, priority: 0 };
    pub(super) const OUTPUT: Self = Self { name: "output", kind: "route", hook: 3, priority: -150 };
    pub(super) const POSTROUTING: Self = Self { name: "postrouting", kind: "nat", hook: 4, priority: 100 };
}

/// The way to the packet filter. What it owns is gone when this is.
pub(super) struct Netfilter(Netlink);

impl Netfilter {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(Netlink::NETFILTER).map(Self)
    }

    /// Does all of the batch, or nothing.
    pub(super) fn apply(&mut self, fill: impl FnOnce(&mut Batch)) -> io::Result<()> {
        // NFNL_MSG_BATCH_BEGIN and _END; older kernels don't answer to them, whatever the flags.
        let frame = |kind| {
            let [high, low] = SUBSYSTEM.to_be_bytes();
            Message::new(kind, 0, &[0, 0, high, low], &Attributes::new()).unanswered()
        };
        let mut batch = Batch { messages: vec![frame(0x10)], sets: 0 };
        fill(&mut batch);
        batch.messages.push(frame(0x11));
        self.0.send(&batch.messages)
    }

    /// All chains of all families: the family, and the attributes.
    pub(super) fn chains(&mut self) -> io::Result<Vec<(u8, Vec<u8>)>> {
        self.dump(Verb::GetChain.message(0, 0, &Attributes::new()))
    }

    /// All rules of one family's table; none if there is no such table.
    pub(super) fn rules(&mut self, family: Family, table: &str) -> io::Result<Vec<(u8, Vec<u8>)>> {
        match self.dump(Verb::GetRule.message(0, family.number(), &Attributes::new().text(1, table))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found,
        }
    }

    fn dump(&mut self, message: Message) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let split = |body: Vec<u8>| Some((*body.first()?, body.get(4..)?.to_vec()));
        Ok(self.0.dump(message)?.into_iter().filter_map(split).collect())
    }
}

/// Changes that are made together.
pub(super) struct Batch {
    messages: Vec<Message>,
    sets: u32,
}

impl Batch {
    fn push(&mut self, verb: Verb, flags: u16, attributes: &Attributes) {
        self.messages.push(verb.message(flags, INET, attributes));
    }

    pub(super) fn add_table(&mut self, table: &str, owned: bool) {
        let flags = if owned { OWNED } else { 0 };
        // NFTA_TABLE_NAME, _FLAGS
        self.push(Verb::NewTable, CREATE, &Attributes::new().text(1, table).be32(2, flags));
    }

    /// Removes a table, there or not.
    pub(super) fn drop_table(&mut self, table: &str) {
        // Adding what is there does nothing, and removing needs something to be there.
        let name = Attributes::new().text(1, table);
        self.push(Verb::NewTable, CREATE, &name);
        self.push(Verb::DeleteTable, 0, &name);
    }

    pub(super) fn add_set(&mut self, table: &str, name: &str, family: Family, intervals: &Intervals) {
        self.sets += 1;
        let (kind, length) = family.set_key();
        // NFTA_SET_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _ID
        let set = Attributes::new().text(1, table).text(2, name).be32(3, CONSTANT_INTERVALS);
        self.push(Verb::NewSet, CREATE, &set.be32(4, kind).be32(5, length).be32(10, self.sets));

        for some in intervals.chunks(ELEMENTS) {
            let mut elements = Attributes::new();
            for (first, after) in some {
                elements = elements.nest(1, &element(first));
                if let Some(after) = after {
                    // NFTA_SET_ELEM_FLAGS
                    elements = elements.nest(1, &element(after).be32(3, INTERVAL_END));
                }
            }
            // NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS, _SET_ID
            let list = Attributes::new().text(1, table).text(2, name).nest(3, &elements).be32(4, self.sets);
            self.push(Verb::NewElements, CREATE, &list);
        }
    }

    pub(super) fn add_chain(&mut self, table: &str, chain: &Chain) {
        // NFTA_HOOK_HOOKNUM, _PRIORITY
        let hook = Attributes::new().be32(1, chain.hook).bytes(2, &chain.priority.to_be_bytes());
        // NFTA_CHAIN_TABLE, _NAME, _HOOK, _TYPE
        let add = Attributes::new().text(1, table).text(3, chain.name).nest(4, &hook).text(7, chain.kind);
        self.push(Verb::NewChain, CREATE, &add);
    }

    /// Adds a rule at the end of a chain of ours.
    pub(super) fn add_rule(&mut self, table: &str, chain: &Chain, rule: Rule) {
        self.push(Verb::NewRule, CREATE | APPEND, &in_chain(table, chain.name).nest(4, rule.expressions()));
    }

    /// Puts a rule before all others, in a chain that is not ours.
    pub(super) fn insert_rule(&mut self, family: Family, table: &str, chain: &str, rule: &Rule) {
        let attributes = in_chain(table, chain).nest(4, rule.expressions());
        self.messages.push(Verb::NewRule.message(CREATE, family.number(), &attributes));
    }

    /// Removes a rule from a chain that is not ours.
    pub(super) fn remove_rule(&mut self, family: Family, table: &str, chain: &str, handle: &[u8]) {
        let attributes = in_chain(table, chain).bytes(3, handle);
        self.messages.push(Verb::DeleteRule.message(0, family.number(), &attributes));
    }
}

/// `NFTA_RULE_TABLE`, `NFTA_RULE_CHAIN`; `_HANDLE` is 3 and `_EXPRESSIONS` 4.
fn in_chain(table: &str, chain: &str) -> Attributes {
    Attributes::new().text(1, table).text(2, chain)
}

/// `NFTA_SET_ELEM_KEY`, `NFTA_DATA_VALUE`
fn element(key: &[u8]) -> Attributes {
    Attributes::new().nest(1, &Attributes::new().bytes(1, key))
}
