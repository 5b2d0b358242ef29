//! The master key.

use std::path::Path;

use contract::Protocol;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{CurveKey, Error, SealingKey, file, random};

/// What all sealing keys are derived from (HKDF-SHA256, RFC 5869), so that one file restores all. Only the
/// service `keys` has it.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Reads the key from a file that only its owner can read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        file::read(path).map(Self)
    }

    /// Reads the key, or makes one where there is no file yet.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        file::read_or_create(path, random::<32>).map(Self)
    }

    /// The key that seals what the nodes that serve `protocol` must open.
    pub fn delivery(&self, protocol: Protocol) -> SealingKey {
        SealingKey::new(self.derive(&format!("vpn delivery v1 {protocol}")))
    }

    /// The key that seals what nobody but `keys` opens.
    pub fn private(&self) -> SealingKey {
        SealingKey::new(self.derive("vpn private v1"))
    }

    /// The key pair that boxes to nodes are made with.
    pub fn curve(&self) -> CurveKey {
        CurveKey::from_bytes(self.derive("vpn curve v1"))
    }

    fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        // Expanding to 32 bytes cannot fail: the limit is 255 times the hash's length.
        let expanded =
            Hkdf::<Sha256>::new(None, self.0.as_slice()).expand(purpose.as_bytes(), key.as_mut_slice());
        debug_assert!(expanded.is_ok());
        key
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_master_key_is_made_once_and_kept_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/master.key");
        let first = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let sealed = first.private().seal(b"secret", "alice").unwrap();
        let again = MasterKey::load(&path).unwrap();
        assert_eq!(again.private().open(&sealed, "alice").unwrap().as_slice(), b"secret");
        assert!(again.delivery(Protocol::Wireguard).open(&sealed, "alice").is_err(), "purposes are apart");

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(MasterKey::load(&path), Err(Error::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn a_damaged_key_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        std::fs::write(&path, "too short").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(matches!(MasterKey::load_or_create(&path), Err(Error::File { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"too short");
    }
}
