//! Pure: which node takes a server, and who holds a port.

use std::collections::BTreeMap;

use contract::{
    NodeName, Port, Protocol, ServerName,
    fleet::{Node, Presence, Server},
};

use crate::error::Error;

/// All nodes, by name.
pub type Nodes = BTreeMap<String, Node>;
/// All servers, by name.
pub type Servers = BTreeMap<String, Server>;

/// What a server needs of a node.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its port.
    pub port: Port,
    /// The node that its creator chose.
    pub node: Option<&'a NodeName>,
    /// The node to take where it will do as well as another, because something was checked there.
    pub rather: Option<&'a NodeName>,
}

/// The node that takes a new server: the one that was chosen, else one that is heard, has the port free and has
/// the fewest servers; of several the first by name.
pub fn place(nodes: &Nodes, servers: &Servers, wanted: &Wanted<'_>) -> Result<NodeName, Error> {
    let taken = |holder: &Server| Error::PortTaken {
        port: wanted.port,
        protocol: wanted.protocol,
        holder: Box::new(holder.clone()),
    };
    let holder = |node: &NodeName| holder(servers, node, wanted.protocol, wanted.port, None);
    if let Some(node) = wanted.node {
        let node = nodes.get(node.as_str()).ok_or_else(|| Error::NodeNotFound(node.clone()))?;
        let name = &node.announced.node;
        return holder(name).map_or_else(|| Ok(name.clone()), |holder| Err(taken(holder)));
    }
    let heard: Vec<&NodeName> = nodes
        .values()
        .filter(|node| node.presence == Presence::Online)
        .map(|node| &node.announced.node)
        .collect();
    let load = |node: &NodeName| servers.values().filter(|server| server.node == *node).count();
    let free = heard.iter().filter(|node| holder(node).is_none());
    match free.min_by_key(|node| (Some(**node) != wanted.rather, load(node), **node)) {
        Some(node) => Ok((*node).clone()),
        // Where all that are heard have the port taken, one holder says more than none.
        None => Err(heard
            .iter()
            .find_map(|node| holder(node))
            .map_or_else(|| Error::no_node(nodes.values()), taken)),
    }
}

/// The server that is in the way of `protocol` on `port` of `node`; `except` is not in its own way. A stopped
/// server keeps its port. Two share a number where one listens on TCP and the other on UDP.
pub fn holder<'s>(
    servers: &'s Servers,
    node: &NodeName,
    protocol: Protocol,
    port: Port,
    except: Option<&ServerName>,
) -> Option<&'s Server> {
    let shares_transport =
        |other: Protocol| other.transports().iter().any(|t| protocol.transports().contains(t));
    servers.values().find(|server| {
        server.node == *node
            && server.port == port
            && Some(&server.name) != except
            && shares_transport(server.protocol)
    })
}

#[cfg(test)]
mod tests;
