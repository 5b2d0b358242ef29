//! What instances write, bounded: each has its own file, and one of before.
//!
//! A file that a process writes to can't be taken from it, so it is copied and emptied under it; as it is opened for
//! appending, writing goes on at the beginning. Lines that come between are lost, and a flood grows past the
//! bound for as long as nobody looks, which is why somebody looks every second.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// A log's size, of which there are two per instance: a week of an engine's warnings.
const SIZE: u64 = 4 * 1024 * 1024;
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The end of it that is read for its last lines.
const TAIL: u64 = 16 * 1024;

/// Keeps all logs bounded until it is cancelled.
pub(super) async fn keep_bounded(instances: PathBuf, ending: CancellationToken) {
    while ending.run_until_cancelled(tokio::time::sleep(LOOK_AGAIN)).await.is_some() {
        let instances = instances.clone();
        let _ = tokio::task::spawn_blocking(move || {
            for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
                let log = entry.path().join("log");
                if let Err(error) = bound(&log) {
                    tracing::warn!(log = %log.display(), %error, "cannot be kept bounded");
                }
            }
        })
        .await;
    }
}

fn bound(log: &Path) -> io::Result<()> {
    let size = match fs::metadata(log) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if size <= SIZE {
        return Ok(());
    }
    // Of a flood the end is worth keeping. Where the disk is full there is no room for it, and it goes.
    let kept = copy_end(log, &log.with_extension("1"));
    File::options().write(true).open(log)?.set_len(0)?;
    kept
}

fn copy_end(log: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(log)?;
    let size = from.metadata()?.len();
    from.seek(SeekFrom::Start(size.saturating_sub(SIZE)))?;
    io::copy(&mut from.take(SIZE), &mut File::create(to)?).map(drop)
}

/// The end of what an instance wrote.
pub(super) async fn tail(log: &Path) -> Vec<u8> {
    let log = log.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut written = end_of(&log.with_extension("1")).unwrap_or_default();
        written.extend(end_of(&log).unwrap_or_default());
        written
    });
    read.await.unwrap_or_default()
}

fn end_of(log: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut end = Vec::new();
    file.take(TAIL).read_to_end(&mut end)?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_flood_is_cut_and_writing_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let mut writer = File::options().create(true).append(true).open(&log).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..(2 * SIZE / 1024) {
            writer.write_all(&line).unwrap();
        }
        writer.write_all(b"\nbefore\n").unwrap();
        bound(&log).unwrap();
        writer.write_all(b"after\n").unwrap();

        assert_eq!(fs::read(&log).unwrap(), b"after\n");
        assert_eq!(fs::metadata(log.with_extension("1")).unwrap().len(), SIZE);
        let tail = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(tail(&log));
        assert!(tail.ends_with(b"\nbefore\nafter\n"), "the last words go over the cut");
    }
}
