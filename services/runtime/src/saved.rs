//! The last desired state on disk, for an agent that starts while the bus is away. What is private in it is sealed
//! as it is on the bus, and opens with the node's own key.

use std::{
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{backend::Error, desired::Desired};

/// The file in the state directory.
const FILE: &str = "desired.json";

/// Where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    path: PathBuf,
}

impl Saved {
    /// In this directory, which is made if need be.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, Error> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(state_dir)
            .map_err(|error| Error::file("make", state_dir, &error))?;
        Ok(Self { path: state_dir.join(FILE) })
    }

    /// What was saved last; none where nothing was, or nothing that can be read.
    pub(crate) fn load(&self) -> Option<Desired> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the last desired state is not readable");
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(desired) => Some(desired),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the last desired state makes no sense");
                None
            }
        }
    }

    /// Replaces it in one step that a crash cannot divide. Blocks.
    pub(crate) fn save(&self, desired: &Desired) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let written = self.write(&new, desired);
        if written.is_err() {
            // What is half written is of no use, and may be what fills the disk.
            let _ = std::fs::remove_file(&new);
        }
        written
    }

    fn write(&self, new: &Path, desired: &Desired) -> std::io::Result<()> {
        let file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
        let mut buffered = std::io::BufWriter::new(file);
        serde_json::to_writer(&mut buffered, desired)?;
        buffered.flush()?;
        buffered.into_inner()?.sync_all()?;
        std::fs::rename(new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_saved_is_there_again_and_only_for_us() {
        let home = tempfile::tempdir().unwrap();
        let saved = Saved::open(home.path()).unwrap();
        assert!(saved.load().is_none());
        let mut desired = Desired::default();
        let id = contract::users::UserId(uuid::Uuid::from_u128(7));
        desired.active.insert("alice".parse().unwrap(), id);
        saved.save(&desired).unwrap();
        let found = saved.load().unwrap();
        assert_eq!(found.active, desired.active);
        let mode = home.path().join(FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(home.path().join(FILE), "{").unwrap();
        assert!(saved.load().is_none(), "half a file is none");
    }
}
