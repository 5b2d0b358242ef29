//! Sealing single secrets.

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use contract::keys::Sealed;
use zeroize::Zeroizing;

use crate::{Error, random};

const NONCE: usize = 24;

/// Seals and opens single secrets: XChaCha20-Poly1305 with a random nonce. What a secret is bound to (whose it
/// is and what for) is authenticated, so that no sealed value can be put in another's place.
pub struct SealingKey(Zeroizing<[u8; 32]>);

impl SealingKey {
    /// The key with these bytes.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The key in the bytes of an opened box.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| Error::NotOpened)?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// Its bytes, to be boxed.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Seals `secret`, bound to `bound_to`.
    pub fn seal(&self, secret: &[u8], bound_to: &str) -> Result<Sealed, Error> {
        let nonce = random::<NONCE>()?;
        let payload = Payload { msg: secret, aad: bound_to.as_bytes() };
        let sealed = self.cipher().encrypt(&XNonce::from(*nonce), payload).map_err(|_| Error::NotOpened)?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(Sealed(STANDARD.encode(bytes)))
    }

    /// Opens what was sealed with this key and bound to the same.
    pub fn open(&self, sealed: &Sealed, bound_to: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let bytes = STANDARD.decode(&sealed.0).map_err(|_| Error::NotOpened)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>().ok_or(Error::NotOpened)?;
        let payload = Payload { msg: sealed, aad: bound_to.as_bytes() };
        self.cipher()
            .decrypt(&XNonce::from(*nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| Error::NotOpened)
    }

    /// Opens a secret of exactly `N` bytes.
    pub fn open_exact<const N: usize>(
        &self,
        sealed: &Sealed,
        bound_to: &str,
    ) -> Result<Zeroizing<[u8; N]>, Error> {
        let secret = self.open(sealed, bound_to)?;
        let bytes: [u8; N] = secret.as_slice().try_into().map_err(|_| Error::NotOpened)?;
        Ok(Zeroizing::new(bytes))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&(*self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_whole_and_in_its_own_place() {
        let key = SealingKey::new(random().unwrap());
        let sealed = key.seal(b"secret", "alice/vless").unwrap();
        assert_eq!(key.open(&sealed, "alice/vless").unwrap().as_slice(), b"secret");
        assert!(key.open(&sealed, "bob/vless").is_err(), "another's place");
        assert!(SealingKey::new(random().unwrap()).open(&sealed, "alice/vless").is_err(), "another key");

        let mut bytes = STANDARD.decode(&sealed.0).unwrap();
        for cut in 0..bytes.len() {
            let short = Sealed(STANDARD.encode(&bytes[..cut]));
            assert!(key.open(&short, "alice/vless").is_err(), "cut to {cut} bytes");
        }
        *bytes.last_mut().unwrap() ^= 1;
        assert!(key.open(&Sealed(STANDARD.encode(bytes)), "alice/vless").is_err(), "a flipped bit");
        assert!(key.open(&Sealed("not base64!".into()), "alice/vless").is_err());
    }
}
