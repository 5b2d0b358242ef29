//! Key pairs to which sealing keys are boxed.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use nkeys::XKey;
use zeroize::Zeroizing;

use crate::{Error, file, random};

/// An nkeys curve key pair (`X…`). A box is made by one pair for another and opens with nothing else.
pub struct CurveKey(XKey);

impl CurveKey {
    /// The pair with this private key.
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(XKey::new_from_raw(*bytes))
    }

    /// Reads the pair's private key from a file that only its owner can read, or makes one.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        file::read_or_create(path, random::<32>).map(Self::from_bytes)
    }

    /// The public key, `X…`.
    pub fn public(&self) -> String {
        self.0.public_key()
    }

    /// A box that only the holder of `recipient`'s private key opens, in standard base64.
    pub fn seal(&self, secret: &[u8], recipient: &str) -> Result<String, Error> {
        let sealed =
            self.0.seal(secret, &public(recipient)?).map_err(|_| Error::NotAKey(recipient.to_owned()))?;
        Ok(STANDARD.encode(sealed))
    }

    /// Opens a box that `sender` made for this pair.
    pub fn open(&self, sealed: &str, sender: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let bytes = STANDARD.decode(sealed).map_err(|_| Error::NotOpened)?;
        self.0.open(&bytes, &public(sender)?).map(Zeroizing::new).map_err(|_| Error::NotOpened)
    }
}

fn public(text: &str) -> Result<XKey, Error> {
    XKey::from_public_key(text).map_err(|_| Error::NotAKey(text.chars().take(64).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_opens_for_its_recipient_alone() {
        let [keys, node, stranger] = std::array::from_fn(|_| CurveKey::from_bytes(random().unwrap()));
        let sealed = keys.seal(b"delivery key", &node.public()).unwrap();
        assert_eq!(node.open(&sealed, &keys.public()).unwrap().as_slice(), b"delivery key");
        assert!(stranger.open(&sealed, &keys.public()).is_err(), "another recipient");
        assert!(node.open(&sealed, &stranger.public()).is_err(), "another sender");
        assert!(matches!(keys.seal(b"x", "Xnonsense"), Err(Error::NotAKey(_))));
    }
}
