//! What must be asked of the host's own firewall: to let our users' packets through.
//!
//! A packet passes only if every table lets it. Docker, and many a host's administrator, drop whatever is forwarded
//! and not known to them; so two rules of ours go to where Docker wants such rules (`DOCKER-USER`), or to the front of
//! the chain that drops. They are those that iptables makes, in its own tables, and say no more than "what comes from or
//! goes to this interface"; what of it passes is decided by our own table.
//!
//! They outlive the process, which has given up the right to change them. Without the interface they match nothing.

use std::io;

use super::{
    super::netlink::attributes,
    batch::{Batch, DROP, Family, Netfilter},
    rule::{Rule, padded},
};

/// Where iptables keeps its rules.
const TABLE: &str = "filter";
/// Where Docker lets others go first.
const DOCKER_USER: &str = "DOCKER-USER";
/// `NF_INET_FORWARD`
const HOOK_FORWARD: u32 = 2;

/// `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`: those that see IP packets on their way through.
const FAMILIES: [u8; 3] = [1, 2, 10];

/// A chain at the forward hook that drops what it doesn't know, or where Docker wants us.
struct Dropper {
    family: u8,
    table: String,
    chain: String,
}

/// Lets the interface's packets through iptables' rules, and says what else is in the way.
pub(super) fn make(netfilter: &mut Netfilter, interface: &str) -> io::Result<()> {
    let old = ours(netfilter, interface)?;
    let droppers = droppers(netfilter)?;
    let mut places = Vec::new();
    for family in Family::BOTH {
        let of_iptables: Vec<&Dropper> = droppers
            .iter()
            .filter(|dropper| dropper.family == family.number() && dropper.table == TABLE)
            .collect();
        let of_docker = of_iptables.iter().find(|dropper| dropper.chain == DOCKER_USER);
        places.extend(of_docker.or(of_iptables.first()).map(|dropper| (family, dropper.chain.clone())));
    }
    for other in droppers.iter().filter(|dropper| !(dropper.table == TABLE && is_of_iptables(dropper.family)))
    {
        let Dropper { table, chain, .. } = other;
        tracing::warn!(
            table,
            chain,
            "drops what is forwarded: users reach nothing unless it lets {interface} through"
        );
    }
    if old.is_empty() && places.is_empty() {
        return Ok(());
    }
    netfilter.apply(|batch| {
        remove(batch, &old);
        for (family, chain) in &places {
            batch.insert_rule(*family, TABLE, chain, &Rule::default().to(interface).accept());
            batch.insert_rule(*family, TABLE, chain, &Rule::default().from(interface).accept());
        }
    })
}

/// Undoes [`make`].
pub(super) fn close(netfilter: &mut Netfilter, interface: &str) -> io::Result<()> {
    let old = ours(netfilter, interface)?;
    if old.is_empty() { Ok(()) } else { netfilter.apply(|batch| remove(batch, &old)) }
}

struct Old {
    family: Family,
    chain: String,
    /// As the kernel writes it.
    handle: Vec<u8>,
}

fn remove(batch: &mut Batch, old: &[Old]) {
    for Old { family, chain, handle } in old {
        batch.remove_rule(*family, TABLE, chain, handle);
    }
}

/// The rules of an earlier run. Nobody else has rules with this interface's name: it is made of the server's id.
fn ours(netfilter: &mut Netfilter, interface: &str) -> io::Result<Vec<Old>> {
    let name = padded(interface);
    let mut found = Vec::new();
    for family in Family::BOTH {
        for (_, rule) in netfilter.rules(family, TABLE)? {
            // NFTA_RULE_CHAIN, NFTA_RULE_HANDLE
            if let (Some(chain), Some(handle)) = (text(&rule, 2), value(&rule, 3))
                && rule.windows(name.len()).any(|window| window == name)
            {
                found.push(Old { family, chain, handle: handle.to_vec() });
            }
        }
    }
    Ok(found)
}

fn droppers(netfilter: &mut Netfilter) -> io::Result<Vec<Dropper>> {
    let mut found = Vec::new();
    for (family, attributes) in netfilter.chains()? {
        // NFTA_CHAIN_TABLE, _NAME, _HOOK (NFTA_HOOK_HOOKNUM), _POLICY
        let (Some(table), Some(chain)) = (text(&attributes, 1), text(&attributes, 3)) else { continue };
        let at_forward = value(&attributes, 4).and_then(|hook| number(hook, 1)) == Some(HOOK_FORWARD);
        let drops = at_forward && number(&attributes, 5) == Some(DROP) && FAMILIES.contains(&family);
        let docker = table == TABLE && chain == DOCKER_USER && is_of_iptables(family);
        if drops || docker {
            found.push(Dropper { family, table, chain });
        }
    }
    Ok(found)
}

fn is_of_iptables(family: u8) -> bool {
    Family::BOTH.iter().any(|known| known.number() == family)
}

fn value(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(value(bytes, kind)?.try_into().ok()?))
}

fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let text = value(bytes, kind)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}
