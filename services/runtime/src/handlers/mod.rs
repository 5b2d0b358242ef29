//! What can be asked of a node: one verb, one file.

mod inspect;
mod list;
mod probe_dest;

pub(crate) use inspect::inspect;
pub(crate) use list::list;
pub(crate) use probe_dest::probe_dest;
