use contract::{
    Timestamp,
    fleet::{AddressSource, Announce, PublicAddress, Resources, ServerId},
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn node(name: &str, online: bool) -> (String, Node) {
    let announced = Announce {
        node: name.parse().unwrap(),
        address: PublicAddress { host: "198.51.100.7".to_owned(), source: AddressSource::Given },
        curve_key: "X".to_owned(),
        backend: "process".to_owned(),
        backend_version: String::new(),
        cpus: 2,
        version: "0.1.0".to_owned(),
    };
    let since = Timestamp::UNIX_EPOCH;
    let presence = if online { Presence::Online } else { Presence::Lost { since } };
    (name.to_owned(), Node { announced, presence, joined_at: since })
}

fn server(name: &str, node: &NodeName, protocol: Protocol, port: u64) -> (String, Server) {
    let server = Server {
        name: name.parse().unwrap(),
        id: ServerId(Uuid::nil()),
        protocol,
        port: Port::try_from(port).unwrap(),
        node: node.clone(),
        image: None,
        reality: None,
        resources: Resources::default(),
        allow_private: Vec::new(),
        running: true,
        restarts: 0,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    (name.to_owned(), server)
}

fn wanted(protocol: Protocol, port: u64) -> Wanted<'static> {
    Wanted { protocol, port: Port::try_from(port).unwrap(), node: None, rather: None }
}

#[test]
fn one_port_number_carries_one_server_on_each_transport() {
    use Protocol::{Shadowsocks2022, VlessReality, Wireguard};
    let n1: NodeName = "n1".parse().unwrap();
    let free = |held: Protocol, asked: Protocol| {
        let servers = Servers::from([server("s", &n1, held, 443)]);
        holder(&servers, &n1, asked, Port::try_from(443).unwrap(), None).is_none()
    };
    for (held, asked, expected) in [
        (VlessReality, VlessReality, false),
        (VlessReality, Wireguard, true),
        (Wireguard, VlessReality, true),
        (Wireguard, Wireguard, false),
        (Shadowsocks2022, VlessReality, false),
        (Shadowsocks2022, Wireguard, false),
        (VlessReality, Shadowsocks2022, false),
        (Wireguard, Shadowsocks2022, false),
    ] {
        assert_eq!(free(held, asked), expected, "{asked} next to {held}");
    }
}

#[test]
fn a_server_is_not_in_its_own_way_and_a_stopped_one_keeps_its_port() {
    let n1: NodeName = "n1".parse().unwrap();
    let (name, mut held) = server("s", &n1, Protocol::Wireguard, 51820);
    held.running = false;
    let own = held.name.clone();
    let servers = Servers::from([(name, held)]);
    let port = Port::try_from(51820).unwrap();
    assert!(holder(&servers, &n1, Protocol::Wireguard, port, Some(&own)).is_none());
    assert!(holder(&servers, &n1, Protocol::Wireguard, port, None).is_some());
}

#[test]
fn the_chosen_node_is_taken_even_when_it_is_lost_but_not_when_it_is_unknown() {
    let nodes = Nodes::from([node("n1", true), node("n2", false)]);
    let place_on = |name: &str| {
        let name = name.parse().unwrap();
        place(&nodes, &Servers::new(), &Wanted { node: Some(&name), ..wanted(Protocol::Wireguard, 1) })
    };
    assert_eq!(place_on("n2").unwrap().as_str(), "n2");
    assert_eq!(place_on("n3"), Err(Error::NodeNotFound("n3".parse().unwrap())));
}

#[test]
fn without_a_node_that_is_heard_the_lost_ones_are_named() {
    let nodes = Nodes::from([node("n1", false)]);
    let refused = place(&nodes, &Servers::new(), &wanted(Protocol::Wireguard, 1));
    assert_eq!(refused, Err(Error::NoNode { lost: vec!["n1".parse().unwrap()] }));
    let refused = place(&Nodes::new(), &Servers::new(), &wanted(Protocol::Wireguard, 1));
    assert_eq!(refused, Err(Error::NoNode { lost: Vec::new() }));
}

#[test]
fn a_port_that_is_taken_everywhere_names_who_holds_it() {
    let n1: NodeName = "n1".parse().unwrap();
    let nodes = Nodes::from([node("n1", true), node("n2", false)]);
    let servers = Servers::from([server("holds", &n1, Protocol::Shadowsocks2022, 443)]);
    for chosen in [None, Some(&n1)] {
        let wanted = Wanted { node: chosen, ..wanted(Protocol::VlessReality, 443) };
        let Err(Error::PortTaken { holder, .. }) = place(&nodes, &servers, &wanted) else { panic!() };
        assert_eq!(holder.name.as_str(), "holds");
    }
}

#[test]
fn the_node_that_was_looked_from_is_taken_where_it_will_do() {
    let nodes = Nodes::from([node("n1", true), node("n2", true)]);
    let n2: NodeName = "n2".parse().unwrap();
    let servers = Servers::from([server("s", &n2, Protocol::Wireguard, 1)]);
    let rather = |port| Wanted { rather: Some(&n2), ..wanted(Protocol::Wireguard, port) };
    assert_eq!(place(&nodes, &servers, &rather(2)).unwrap(), n2, "although it has more servers");
    assert_eq!(place(&nodes, &servers, &rather(1)).unwrap().as_str(), "n1", "its port is taken");
}

fn protocols() -> impl Strategy<Value = Protocol> {
    proptest::sample::select(&Protocol::ALL[..])
}

proptest! {
    /// Whatever is asked for in whatever order: what is placed is on a node that is heard, in nobody's way, and
    /// where the fewest were; what is refused found no free port.
    #[test]
    fn placed_servers_are_in_nobodys_way(
        heard in proptest::collection::vec(any::<bool>(), 0..4),
        asked in proptest::collection::vec((protocols(), 1..5_u64), 0..30),
    ) {
        let nodes: Nodes =
            heard.iter().enumerate().map(|(index, heard)| node(&format!("n{index}"), *heard)).collect();
        let online: Vec<&NodeName> = nodes
            .values()
            .filter(|node| node.presence == Presence::Online)
            .map(|node| &node.announced.node)
            .collect();
        let mut servers = Servers::new();
        for (index, (protocol, port)) in asked.into_iter().enumerate() {
            let wanted = wanted(protocol, port);
            let load = |servers: &Servers, node: &NodeName| servers.values().filter(|s| s.node == *node).count();
            let free = |node: &NodeName| {
                servers.values().all(|s| {
                    s.node != *node
                        || s.port != wanted.port
                        || s.protocol.transports().iter().all(|t| !protocol.transports().contains(t))
                })
            };
            match place(&nodes, &servers, &wanted) {
                Ok(node) => {
                    prop_assert!(online.contains(&&node));
                    prop_assert!(free(&node));
                    let least = online.iter().filter(|n| free(n)).map(|n| load(&servers, n)).min();
                    prop_assert_eq!(Some(load(&servers, &node)), least);
                    servers.extend([server(&format!("s{index}"), &node, protocol, port)]);
                }
                Err(Error::PortTaken { holder, .. }) => {
                    prop_assert!(!online.iter().any(|n| free(n)));
                    prop_assert_eq!(holder.port, wanted.port);
                }
                Err(error) => {
                    prop_assert!(online.is_empty());
                    let lost = heard.len();
                    let all_named = matches!(error, Error::NoNode { lost: named } if named.len() == lost);
                    prop_assert!(all_named);
                }
            }
        }
    }
}
