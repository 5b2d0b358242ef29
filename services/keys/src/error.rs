//! What can be refused.

use contract::{Code, ServerName, UserName};

/// Why something about keys is refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A user has no credentials (yet).
    #[error("user \"{0}\" has no credentials")]
    UserNotIssued(UserName),
    /// A server has no keys (yet).
    #[error("server \"{0}\" has no keys")]
    ServerNotIssued(ServerName),
    /// A server whose settings or keys are not those of its protocol.
    #[error("server \"{0}\" lacks what its protocol needs")]
    ServerIncomplete(ServerName),
    /// Every WireGuard address is somebody's.
    #[error("all WireGuard addresses are taken")]
    AddressesTaken,
    /// A task of ours ended before its time.
    #[error("making credentials was interrupted")]
    Interrupted,
    /// Sealing or opening.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// The bus, or who was asked on it.
    #[error(transparent)]
    Bus(#[from] contract::Error),
}

impl From<Error> for contract::Error {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::UserNotIssued(_) | Error::ServerNotIssued(_) => Code::KEYS_NOT_ISSUED,
            Error::ServerIncomplete(_) | Error::AddressesTaken | Error::Interrupted => Code::INTERNAL,
            Error::Seal(seal::Error::NotOpened) => Code::KEYS_SEALED,
            Error::Seal(seal::Error::File { .. }) => Code::KEYS_MASTER_MISSING,
            Error::Seal(seal::Error::Exposed { .. }) => Code::KEYS_MASTER_EXPOSED,
            Error::Seal(seal::Error::NotAKey(_) | seal::Error::NoRandomness) => Code::INTERNAL,
            Error::Bus(_) => Code::INTERNAL,
        };
        match error {
            Error::Bus(error) => error,
            other => Self::new(code, other.to_string()),
        }
    }
}
