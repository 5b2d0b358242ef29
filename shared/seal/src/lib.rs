//! Sealing of private parts, at rest and on their way to the node that needs them.
//!
//! - [`master`]  [`MasterKey`]: what everything else is derived from; only `keys` has it
//! - [`sealing`] [`SealingKey`]: seals and opens single secrets, each bound to whose it is and what for
//! - [`curve`]   [`CurveKey`]: a node's (or the service's) own key pair, to which sealing keys are boxed
//! - [`file`]    key files that only their owner can read
//!
//! A secret is sealed once, with the delivery key of its protocol, and that key is boxed to each node that
//! serves the protocol: ten thousand users on ten nodes are ten thousand seals and ten boxes.

pub mod curve;
pub mod file;
pub mod master;
pub mod sealing;

pub use curve::CurveKey;
pub use master::MasterKey;
pub use sealing::SealingKey;

/// Why a key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A sealed value or box was made for something else, with another key, or is damaged.
    #[error("a sealed value does not open: it belongs to something else or was sealed with another key")]
    NotOpened,
    /// A public key that is none.
    #[error("{0:?} is not a public curve key (X…)")]
    NotAKey(String),
    /// A key file is missing or damaged.
    #[error("key file {path}: {why}")]
    File {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// A key file can be read by others.
    #[error("key file {path} can be read by others (mode {mode:o})")]
    Exposed {
        /// Which.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// `N` random bytes from the system.
pub fn random<const N: usize>() -> Result<zeroize::Zeroizing<[u8; N]>, Error> {
    let mut bytes = zeroize::Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| Error::NoRandomness)?;
    Ok(bytes)
}
