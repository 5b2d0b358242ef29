//! Servers and nodes -> grants, and what leads there.

use std::collections::{BTreeMap, BTreeSet};

use contract::{NodeName, Protocol, keys::Grant};

/// What a node is to be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The node's public curve key.
    pub curve_key: String,
    /// The protocols of its servers: at least one.
    pub protocols: BTreeSet<Protocol>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Replace whatever the node has.
    Give(NodeName, Wanted),
    /// Take away what it has.
    Withdraw(NodeName),
}

/// What each node is to be granted: the protocols of its servers, once it has said who it is.
pub fn desired<'s>(
    servers: impl IntoIterator<Item = &'s (NodeName, Protocol)>,
    nodes: &BTreeMap<NodeName, String>,
) -> BTreeMap<NodeName, Wanted> {
    let mut desired = BTreeMap::new();
    for (node, protocol) in servers {
        let Some(curve_key) = nodes.get(node) else { continue };
        let fresh = || Wanted { curve_key: curve_key.clone(), protocols: BTreeSet::new() };
        desired.entry(node.clone()).or_insert_with(fresh).protocols.insert(*protocol);
    }
    desired
}

/// What leads from the grants that are `held` to those that are `desired`. Boxes of another `sender` are of
/// another master key and open nothing.
pub fn plan(
    desired: &BTreeMap<NodeName, Wanted>,
    held: &BTreeMap<NodeName, Grant>,
    sender: &str,
) -> Vec<Action> {
    let fits = |wanted: &Wanted, grant: &Grant| {
        grant.curve_key == wanted.curve_key
            && grant.sender == sender
            && grant.boxes.keys().eq(wanted.protocols.iter())
    };
    let withdrawn = held.keys().filter(|node| !desired.contains_key(*node)).cloned().map(Action::Withdraw);
    let given = desired
        .iter()
        .filter(|(node, wanted)| !held.get(*node).is_some_and(|grant| fits(wanted, grant)))
        .map(|(node, wanted)| Action::Give(node.clone(), wanted.clone()));
    withdrawn.chain(given).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: u8) -> NodeName {
        format!("node-{number}").parse().unwrap()
    }

    fn protocols() -> impl Strategy<Value = Protocol> {
        prop::sample::select(Protocol::ALL.to_vec())
    }

    fn worlds() -> impl Strategy<Value = (Vec<(NodeName, Protocol)>, BTreeMap<NodeName, String>)> {
        let servers = prop::collection::vec(((0..5_u8).prop_map(node), protocols()), 0..12);
        let nodes = prop::collection::btree_map((0..5_u8).prop_map(node), "X[AB]", 0..5);
        (servers, nodes)
    }

    fn apply(mut held: BTreeMap<NodeName, Grant>, actions: Vec<Action>) -> BTreeMap<NodeName, Grant> {
        for action in actions {
            match action {
                Action::Withdraw(node) => assert!(held.remove(&node).is_some(), "{node} has nothing"),
                Action::Give(node, wanted) => {
                    let boxes = wanted.protocols.into_iter().map(|protocol| (protocol, String::new()));
                    let grant = Grant {
                        node: node.clone(),
                        curve_key: wanted.curve_key,
                        sender: "us".to_owned(),
                        boxes: boxes.collect(),
                    };
                    held.insert(node, grant);
                }
            }
        }
        held
    }

    proptest! {
        /// From any grants to those of any world, in one go.
        #[test]
        fn a_plan_leads_to_what_is_desired(before in worlds(), after in worlds(), stale: bool) {
            let mut held = apply(BTreeMap::new(), plan(&desired(&before.0, &before.1), &BTreeMap::new(), "us"));
            if stale {
                held.values_mut().for_each(|grant| grant.sender = "an older master key".to_owned());
            }
            let wanted = desired(&after.0, &after.1);
            let actions = plan(&wanted, &held, "us");
            let held = apply(held, actions);
            prop_assert_eq!(plan(&wanted, &held, "us"), vec![]);
            for (node, curve_key) in &after.1 {
                let serves: BTreeSet<_> = after.0.iter().filter(|(on, _)| on == node).map(|(_, p)| *p).collect();
                let granted: BTreeSet<_> = held.get(node).map(|grant| grant.boxes.keys().copied().collect()).unwrap_or_default();
                prop_assert_eq!(&granted, &serves, "{} may open what it serves and nothing else", node);
                if let Some(grant) = held.get(node) {
                    prop_assert_eq!(&grant.curve_key, curve_key);
                    prop_assert_eq!(&grant.sender, "us");
                }
            }
            prop_assert!(held.keys().all(|node| after.1.contains_key(node)));
        }
    }
}
