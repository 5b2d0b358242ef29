//! Work in the network namespace of an instance.

use std::{fs::File, io, os::fd::AsFd as _, os::unix::fs::MetadataExt as _, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Whether the process is in our own network namespace, as a child process is and a container is not.
pub fn is_ours(pid: u32) -> io::Result<bool> {
    // The same file is the same namespace.
    let (ours, theirs) = (std::fs::metadata("/proc/self/ns/net")?, std::fs::metadata(path(pid))?);
    Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
}

/// Does the work in the network namespace of the process, and waits for it. Entering another namespace than our own
/// takes `CAP_SYS_ADMIN`.
///
/// The work is done by a thread of its own, which ends with it: a thread that had entered a namespace would
/// otherwise go on with other work there.
pub fn within<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if is_ours(pid)? {
        return Ok(work());
    }
    let namespace = File::open(path(pid))?;
    thread::scope(|scope| {
        let enter_and_work = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, enter_and_work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the work panicked")))
    })
}

fn path(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}
