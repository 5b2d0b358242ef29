//! Xray's access log: who connected, and from where. Read while it is written, and freed as it is read.
//!
//! It cannot be rotated in the usual way without losing lines (`RestartLogger` throws away what is queued), so
//! what has been read is cut out of the file's start and its place on the disk given back: the file only looks long.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use rustix::fs::{FallocateFlags, fallocate};

use super::files;

/// So much of what was read may stay on the disk; 100 bytes tell of one connection.
const KEPT: u64 = 1024 * 1024;
/// Lines are some hundred bytes long; what is longer is none.
const LONGEST_LINE: usize = 4096;
const CHUNK: usize = 64 * 1024;

/// A user has connected from an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accepted<'a> {
    pub(super) peer: SocketAddr,
    pub(super) user: &'a str,
}

/// How far the log has been read.
#[derive(Debug)]
pub(super) struct AccessLog {
    path: PathBuf,
    inode: u64,
    read_to: u64,
    freed_to: u64,
    /// The start of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl AccessLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, inode: 0, read_to: 0, freed_to: 0, partial: Vec::new() }
    }

    /// Reads to the log's end, as it is now.
    pub(super) fn read(&mut self, mut take: impl FnMut(Accepted<'_>)) -> io::Result<()> {
        let Some(mut file) = files::open(&self.path)? else { return Ok(()) };
        let metadata = file.metadata()?;
        if metadata.ino() != self.inode || metadata.len() < self.read_to {
            *self = Self { inode: metadata.ino(), ..Self::new(std::mem::take(&mut self.path)) };
            self.skip_freed(&file)?;
        }
        if metadata.len() == self.read_to {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.read_to))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = file.read(&mut chunk)?;
            if length == 0 {
                return Ok(());
            }
            self.read_to += u64::try_from(length).unwrap_or_default();
            self.lines(chunk.get(..length).unwrap_or_default(), &mut take);
        }
    }

    /// Whether so much has been read that its place should be given back.
    pub(super) fn is_long(&self) -> bool {
        self.read_to - self.freed_to > KEPT
    }

    /// Gives back the place of what has been read. A reader that starts anew does not find it again.
    pub(super) fn free(&mut self) -> io::Result<()> {
        let Some(file) = files::open(&self.path)? else { return Ok(()) };
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let lines_to = self.read_to - u64::try_from(self.partial.len()).unwrap_or_default();
        match fallocate(&file, mode, 0, lines_to) {
            Ok(()) => self.freed_to = lines_to,
            // Some file systems cannot. Lines written in this very moment are lost.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                file.set_len(0)?;
                (self.read_to, self.freed_to) = (0, 0);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// What an earlier reader gave back reads as zeros; it starts at the file's start.
    fn skip_freed(&mut self, file: &File) -> io::Result<()> {
        let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0)) {
            Ok(start) => start,
            // Nothing but what was given back, or a file system that cannot tell.
            Err(rustix::io::Errno::NXIO) => file.metadata()?.len(),
            Err(_) => 0,
        };
        (self.read_to, self.freed_to) = (start, start);
        Ok(())
    }

    fn lines(&mut self, bytes: &[u8], take: &mut impl FnMut(Accepted<'_>)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) if self.partial.is_empty() => parse(end).into_iter().for_each(&mut *take),
                Some(end) => {
                    self.partial.extend_from_slice(end);
                    parse(&self.partial).into_iter().for_each(&mut *take);
                    self.partial.clear();
                }
                // A line without an end must not fill the memory; its rest will be no line.
                None if self.partial.len() + part.len() > LONGEST_LINE => self.partial.clear(),
                None => self.partial.extend_from_slice(part),
            }
        }
    }
}

/// `2026/11/23 11:11:31.730206 from 192.0.2.1:4711 accepted tcp:example.org:443 [vpn-in -> direct] email: alice`
///
/// The address has `tcp:` or `udp:` before it in some lines. The destination is the user's choice, but names with
/// other characters than names have get no line, and what counts is the last `email: `.
fn parse(line: &[u8]) -> Option<Accepted<'_>> {
    // Holes that begin within a page are read as zeros.
    let start = line.iter().position(|byte| *byte != 0)?;
    let line = std::str::from_utf8(line.get(start..)?).ok()?;
    let (_, line) = line.split_once(" from ")?;
    let (peer, line) = line.split_once(" accepted ")?;
    let (_, user) = line.rsplit_once(" email: ")?;
    let peer = peer.strip_prefix("tcp:").or_else(|| peer.strip_prefix("udp:")).unwrap_or(peer);
    let peer: SocketAddr = peer.parse().ok()?;
    Some(Accepted { peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()), user })
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _, os::unix::fs::MetadataExt as _};

    use super::*;

    fn line(port: u16, user: &str) -> String {
        format!(
            "2026/11/23 11:11:31.730206 from 192.0.2.1:{port} accepted tcp:example.org:443 [vpn-in -> direct] email: {user}\n"
        )
    }

    fn read(log: &mut AccessLog) -> Vec<(u16, String)> {
        let mut found = Vec::new();
        log.read(|accepted| found.push((accepted.peer.port(), accepted.user.to_owned()))).unwrap();
        found
    }

    #[test]
    fn every_kind_of_line_is_understood() {
        let stamp = "2026/11/23 11:11:31.730206";
        for (line, expected) in [
            (
                format!("{stamp} from 192.0.2.1:1 accepted tcp:1.1.1.1:80 [vpn-in -> direct] email: a"),
                Some("192.0.2.1:1"),
            ),
            (
                format!("{stamp} from 192.0.2.1:1 accepted 1.1.1.1:80 [vpn-in -> direct] email: a"),
                Some("192.0.2.1:1"),
            ),
            (
                format!("{stamp} from tcp:192.0.2.1:1 accepted udp:1.1.1.1:53 [vpn-in -> x] email: a"),
                Some("192.0.2.1:1"),
            ),
            (
                format!("{stamp} from [2001:db8::1]:1 accepted tcp:a:80 [vpn-in -> direct] email: a"),
                Some("[2001:db8::1]:1"),
            ),
            (format!("{stamp} from [::ffff:192.0.2.1]:1 accepted tcp:a:80 email: a"), Some("192.0.2.1:1")),
            (format!("{stamp} from 0.0.0.0:0 accepted unix:127.0.0.1 [api-in -> api]"), None),
            (
                format!("{stamp} from 192.0.2.1:1 rejected  proxy/vless/encoding: invalid request user id"),
                None,
            ),
            (String::new(), None),
        ] {
            let found = parse(line.as_bytes());
            assert_eq!(
                found.as_ref().map(|found| found.peer),
                expected.map(|peer| peer.parse().unwrap()),
                "{line}"
            );
            assert!(found.is_none_or(|found| found.user == "a"), "{line}");
        }
    }

    #[test]
    fn nothing_is_lost_or_read_twice_while_it_is_written_and_freed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("access.log");
        let mut log = AccessLog::new(path.clone());
        assert_eq!(read(&mut log), []);

        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let third = line(3, "carol");
        let (half, rest) = third.split_at(30);
        file.write_all((line(1, "alice") + &line(2, "bob") + half).as_bytes()).unwrap();
        assert_eq!(read(&mut log), [(1, "alice".to_owned()), (2, "bob".to_owned())]);
        file.write_all(rest.as_bytes()).unwrap();
        assert_eq!(read(&mut log), [(3, "carol".to_owned())]);

        while !log.is_long() {
            file.write_all(line(4, "dave").repeat(1000).as_bytes()).unwrap();
            assert_eq!(read(&mut log).len(), 1000);
        }
        log.free().unwrap();
        let metadata = file.metadata().unwrap();
        assert!(metadata.blocks() * 512 < KEPT / 4, "{} blocks are still held", metadata.blocks());
        file.write_all(line(5, "erin").as_bytes()).unwrap();
        assert_eq!(read(&mut log), [(5, "erin".to_owned())]);

        // A reader that starts anew finds what was not freed.
        let after = read(&mut AccessLog::new(path.clone()));
        assert_eq!(after.last(), Some(&(5, "erin".to_owned())));
        assert!(after.len() < 100, "{} lines", after.len());

        // A file that is another one is read from its start.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, line(6, "frank")).unwrap();
        assert_eq!(read(&mut log), [(6, "frank".to_owned())]);
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let home = tempfile::tempdir().unwrap();
        let secret = home.path().join("secret");
        std::fs::write(&secret, line(1, "alice")).unwrap();
        let path = home.path().join("access.log");
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert!(AccessLog::new(path).read(|_| panic!("a link was followed")).is_err());
    }
}
