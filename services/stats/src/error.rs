//! What can be refused.

use contract::{Code, NodeName, ServerName, UserName};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such user.
    #[error("there is no user {0}")]
    NoUser(UserName),
    /// Nothing was ever sent or received through such a server.
    #[error("nothing was sent or received through a server {0}")]
    NoServer(ServerName),
    /// Nothing was ever sent or received through such a node.
    #[error("nothing was sent or received through a node {0}")]
    NoNode(NodeName),
    /// What was counted cannot be kept.
    #[error("what was counted: {0}")]
    Store(String),
}

impl From<disk::Error> for Error {
    fn from(error: disk::Error) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<Error> for contract::Error {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::NoUser(_) => Code::USERS_NOT_FOUND,
            Error::NoServer(_) | Error::NoNode(_) => Code::STATS_NOT_FOUND,
            Error::Store(_) => Code::STATS_STORE_FAILED,
        };
        Self::new(code, error.to_string())
    }
}
