//! Giving up what the process may do, once its network stands.
//!
//! Capabilities and user ids belong to threads, so each thread gives up its own: those of the runtime when they begin,
//! the first one when it has set up the network. In the end [`nothing_is_left`] looks at all of them.

use std::{fs, io};

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::backend::CONTAINER_UID;

/// Gives up everything that this thread may do, for good.
///
/// It stays root only where it may not become anybody else: in a container that was given `CAP_NET_ADMIN` alone.
pub(super) fn this_thread() -> io::Result<()> {
    let has = capabilities(None)?.effective;
    if has.contains(CapabilitySet::SETPCAP) {
        for number in 0..u64::BITS {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
                Ok(()) => {}
                // Beyond the last that this kernel knows.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    if has.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
        let (uid, gid) = (Uid::from_raw(CONTAINER_UID), Gid::from_raw(CONTAINER_UID));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Makes sure that no thread may do anything any more, and that nobody reads this process's memory: it holds keys.
pub(super) fn nothing_is_left() -> io::Result<()> {
    for thread in fs::read_dir("/proc/self/task")? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let none = |name: &str| value(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()) == Some(0);
        let confined =
            none("CapEff:") && none("CapPrm:") && none("CapInh:") && value("NoNewPrivs:") == Some("1");
        if !confined {
            let name = value("Name:").unwrap_or_default();
            return Err(io::Error::other(format!("the thread {name} has kept capabilities")));
        }
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
