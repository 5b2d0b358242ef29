//! Who an instance runs as, and the directory that it shares with the agent.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
};

use contract::Code;

use super::{CONTAINER_UID, Error, Rights};

/// Directories below the run directory are followed so deep; engines keep a socket, a few files, perhaps a
/// folder of them.
const DEPTH: usize = 4;

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Who this program runs as.
pub(super) fn ourselves() -> Owner {
    Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

/// Who an instance with these rights runs as.
///
/// An agent that is not root can give files to nobody else, so its instances run as the agent itself: no less
/// bound by everything else, but one user with it. Networks are set up by root only.
pub(super) fn runs_as(rights: Rights) -> Result<Owner, Error> {
    let ourselves = ourselves();
    match rights {
        Rights::None if ourselves.uid == 0 => Ok(Owner { uid: CONTAINER_UID, gid: CONTAINER_UID }),
        Rights::None => Ok(ourselves),
        Rights::Network if ourselves.uid == 0 => Ok(Owner { uid: 0, gid: 0 }),
        Rights::Network => Err(Error::new(
            Code::RUNTIME_NOT_PERMITTED,
            format!(
                "setting up a network needs an agent that runs as root; it runs as uid {}",
                ourselves.uid
            ),
        )),
    }
}

/// Makes the directory if need be, for its owner's eyes alone, and gives it and what is in it to the owner.
///
/// Called while the instance does not run, so nobody changes the tree meanwhile. What an earlier run may have
/// left as a trap is stepped over: links are not followed, and a file with a second name stays as it is.
pub(super) fn hand_over(run_dir: &Path, owner: Owner) -> Result<(), Error> {
    // Whoever it is for must get through what is above it, and needs to see nothing of that.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(run_dir)
        .and_then(|()| fs::set_permissions(run_dir, fs::Permissions::from_mode(0o700)))
        .map_err(|error| Error::file("make", run_dir, &error))?;
    give(run_dir, owner, DEPTH).map_err(|error| Error::file("hand over", run_dir, &error))
}

/// Refuses a path that the owner cannot get to. A container sees its run directory and nothing above; a child
/// process needs to get through all of it.
pub(super) fn can_reach(path: &Path, owner: Owner) -> Result<(), Error> {
    for directory in path.ancestors().skip(1) {
        let metadata = fs::metadata(directory).map_err(|error| Error::file("look at", directory, &error))?;
        let bit = if owner.uid == 0 || metadata.uid() == owner.uid {
            0o100
        } else if metadata.gid() == owner.gid {
            0o010
        } else {
            0o001
        };
        if metadata.mode() & bit == 0 {
            let (uid, blocked) = (owner.uid, directory.display());
            let message = format!(
                "engines run as uid {uid}, which may not pass {blocked} to {}: chmod o+x {blocked}",
                path.display()
            );
            return Err(Error::new(Code::RUNTIME_NOT_PERMITTED, message));
        }
    }
    Ok(())
}

fn give(path: &Path, owner: Owner, depth: usize) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_file() && metadata.nlink() > 1 {
        return Ok(());
    }
    if (metadata.uid(), metadata.gid()) != (owner.uid, owner.gid) {
        lchown(path, Some(owner.uid), Some(owner.gid))?;
    }
    if metadata.is_dir() && depth > 0 {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), owner, depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_private_and_traps_are_stepped_over() {
        let home = tempfile::tempdir().unwrap();
        let (outside, run_dir) = (home.path().join("outside"), home.path().join("run"));
        fs::write(&outside, "not yours").unwrap();
        fs::create_dir(&run_dir).unwrap();
        fs::write(run_dir.join("config.json"), "yours").unwrap();
        std::os::unix::fs::symlink(&outside, run_dir.join("link")).unwrap();
        fs::hard_link(&outside, run_dir.join("second-name")).unwrap();

        // Giving files away takes root; to oneself it always works.
        let owner = runs_as(Rights::None).unwrap();
        hand_over(&run_dir, owner).unwrap();

        let uid = |path: &Path| fs::metadata(path).unwrap().uid();
        assert_eq!(fs::metadata(&run_dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!((uid(&run_dir), uid(&run_dir.join("config.json"))), (owner.uid, owner.uid));
        assert_eq!(uid(&outside), ourselves().uid, "a file outside was given away through a link");
    }
}
