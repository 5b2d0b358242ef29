//! What is refused, with the words for people.

use contract::{
    Code, NodeName, Port, Protocol, ServerName,
    fleet::{Node, Presence, Server},
};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The name is taken.
    ServerExists(Box<Server>),
    /// There is no such server.
    ServerNotFound(ServerName),
    /// There is no such node.
    NodeNotFound(NodeName),
    /// No node is heard; the lost ones are named.
    NoNode {
        /// Those that announced themselves once.
        lost: Vec<NodeName>,
    },
    /// Another server holds the port.
    PortTaken {
        /// The port that was asked for.
        port: Port,
        /// The protocol that was to listen there.
        protocol: Protocol,
        /// Who holds it, on which node.
        holder: Box<Server>,
    },
    /// A setting does not fit.
    Setting(String),
    /// An agent says something of itself that cannot be.
    Announcement(String),
    /// There is no room for more.
    Full {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// What others answered: the bus, or a node.
    Other(contract::Error),
}

impl Error {
    /// No node takes a server; says which are there.
    pub fn no_node<'n>(nodes: impl IntoIterator<Item = &'n Node>) -> Self {
        let lost = nodes
            .into_iter()
            .filter(|node| matches!(node.presence, Presence::Lost { .. }))
            .map(|node| node.announced.node.clone())
            .collect();
        Self::NoNode { lost }
    }
}

impl From<contract::Error> for Error {
    fn from(error: contract::Error) -> Self {
        Self::Other(error)
    }
}

impl From<Error> for contract::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::ServerExists(server) => Self::new(
                Code::FLEET_SERVER_EXISTS,
                format!(
                    "server {} exists since {:.0}: {} on port {} of node {}",
                    server.name, server.created_at, server.protocol, server.port, server.node
                ),
            ),
            Error::ServerNotFound(name) => {
                Self::new(Code::FLEET_SERVER_NOT_FOUND, format!("there is no server {name}"))
            }
            Error::NodeNotFound(name) => {
                Self::new(Code::FLEET_NODE_NOT_FOUND, format!("no node {name} has announced itself"))
            }
            Error::NoNode { lost } if lost.is_empty() => {
                Self::new(Code::FLEET_NO_NODE, "no node has announced itself yet")
            }
            Error::NoNode { lost } => {
                let names: Vec<_> = lost.iter().map(NodeName::as_str).collect();
                Self::new(Code::FLEET_NO_NODE, format!("no node is heard; lost: {}", names.join(", ")))
            }
            Error::PortTaken { port, protocol, holder } => Self::new(
                Code::FLEET_PORT_TAKEN,
                format!(
                    "port {port} on node {} is held by server {} ({}); {protocol} needs it on {}",
                    holder.node,
                    holder.name,
                    holder.protocol,
                    protocol.transports().iter().map(|t| t.as_str()).collect::<Vec<_>>().join(" and "),
                ),
            ),
            Error::Setting(message) => Self::new(Code::FLEET_SETTING_INVALID, message),
            Error::Announcement(message) => Self::new(Code::REQUEST_INVALID, message),
            Error::Full { what, limit } => {
                Self::new(Code::FLEET_LIMIT_REACHED, format!("there are {limit} {what}, which is the limit"))
            }
            Error::Other(error) => error,
        }
    }
}
