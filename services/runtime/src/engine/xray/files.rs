//! Files in a run directory, which the engine may write to as well: whatever it left there in place of a file,
//! nothing outside is touched.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

use crate::backend::Error;

/// Replaces the file in one step that a crash cannot divide. Readable by the run directory's owner alone.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    write(path, &new, content).map_err(|error| {
        // What is half written is of no use, and may be what fills the disk.
        let _ = std::fs::remove_file(&new);
        Error::file("write", path, &error)
    })
}

fn write(path: &Path, new: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    remove(new)?;
    // Made anew or not at all: a link would lead elsewhere.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    let (owner, ours) = (directory.metadata()?, file.metadata()?);
    if (owner.uid(), owner.gid()) != (ours.uid(), ours.gid()) {
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    File::open(directory)?.sync_all()
}

/// Removes a file that may be absent.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Opens a file for reading, and for freeing what has been read; none where nothing or no file is there.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    // A pipe in its place would otherwise hold us up for ever.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened =
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
