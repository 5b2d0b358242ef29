//! Files that hold secrets: for their owner alone, and never in the place of another unless that is asked for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use contract::{Code, Error};

/// Writes a file of mode 0600.
pub(crate) fn write_private(path: &Path, bytes: &[u8], force: bool) -> Result<(), Error> {
    let written = if force { replace(path, bytes) } else { create(path).and_then(|file| fill(file, bytes)) };
    written.map_err(|error| {
        let refused = Error::new(Code::CLI_FILE, format!("{}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::AlreadyExists => refused.with_hint("give another name, or --force to replace it"),
            _ => refused,
        }
    })
}

/// Follows no link and takes nobody else's file.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn fill(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// The new file takes the old one's place whole, with its own mode.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside: PathBuf = path.with_file_name(name);
    let written = create(&beside).and_then(|file| fill(file, bytes)).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn secrets_are_their_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alice.conf");
        write_private(&path, b"one", false).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);

        assert_eq!(write_private(&path, b"two", false).unwrap_err().code, Code::CLI_FILE);
        assert_eq!(fs::read(&path).unwrap(), b"one");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"two", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);

        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, b"theirs").unwrap();
        symlink(&target, &link).unwrap();
        assert!(write_private(&link, b"secret", false).is_err());
        write_private(&link, b"secret", true).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"theirs", "a link is replaced, not followed");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside");
    }
}
