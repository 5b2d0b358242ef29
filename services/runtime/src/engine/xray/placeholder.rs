//! Users whom nobody is: Shadowsocks 2022 in Xray needs them, twice.
//!
//! Without any user it would let in whoever knows the server's key, which every former user does. And when a user
//! leaves, Xray 26.3 moves its last user to the free place first and tells its table of keys some milliseconds
//! later: whoever connects with the last user's key meanwhile is looked up behind the end of the list, and Xray
//! ends, with everybody's connections. So a fresh placeholder is put last before anybody leaves; nobody has its key.

use contract::Code;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::backend::Error;

/// How their names start; no user's name can.
const PREFIX: &str = ".nobody-";

/// A user whom nobody is.
pub(super) struct Placeholder {
    /// Its name.
    pub(super) email: String,
    /// Forgotten as soon as Xray has it.
    pub(super) key: Zeroizing<[u8; 16]>,
}

impl Placeholder {
    pub(super) fn new() -> Result<Self, Error> {
        let mut key = Zeroizing::new([0; 16]);
        getrandom::fill(key.as_mut()).map_err(|error| {
            Error::new(Code::INTERNAL, format!("the system gives no random numbers: {error}"))
        })?;
        Ok(Self { email: format!("{PREFIX}{}", Uuid::new_v4().simple()), key })
    }
}

/// Whether that is a placeholder's name.
pub(super) fn is_placeholder(email: &str) -> bool {
    email.starts_with(PREFIX)
}
