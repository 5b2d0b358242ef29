//! Key files: 32 bytes as one line of standard base64, mode 0600.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::Error;

/// Reads a key; refuses a file that others can read.
pub fn read(path: &Path) -> Result<Zeroizing<[u8; 32]>, Error> {
    let fail = |why: String| Error::File { path: path.display().to_string(), why };
    let mode = fs::metadata(path).map_err(|error| fail(error.to_string()))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.display().to_string(), mode });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| fail(error.to_string()))?);
    let mut key = Zeroizing::new([0; 32]);
    match STANDARD.decode_slice(text.trim(), key.as_mut_slice()) {
        Ok(32) => Ok(key),
        _ => Err(fail("it does not hold 32 bytes in base64".to_owned())),
    }
}

/// Reads a key, or stores what `make` makes where there is no file; a file that cannot be read stays as it is.
pub fn read_or_create(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<[u8; 32]>, Error>,
) -> Result<Zeroizing<[u8; 32]>, Error> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        _ => return read(path),
    }
    let key = make()?;
    let fail =
        |error: std::io::Error| Error::File { path: path.display().to_string(), why: error.to_string() };
    match create(path, &key) {
        // Another process was faster: its key holds.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(path),
        Err(error) => Err(fail(error)),
        Ok(()) => Ok(key),
    }
}

/// The file appears whole or not at all: it is linked to its name when it is on disk.
fn create(path: &Path, key: &[u8; 32]) -> std::io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let text = Zeroizing::new(STANDARD.encode(key) + "\n");
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&partial, path)?;
        File::open(folder)?.sync_all()
    })();
    let _ = fs::remove_file(&partial);
    written
}
