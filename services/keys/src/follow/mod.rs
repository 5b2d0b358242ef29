//! Users and servers as they come and go.
//!
//! - [`verdict`] pure: what a change under a name means for what stands there
//! - [`users`]   credentials for every user there is, for nobody else
//! - [`servers`] keys for every server there is, for nothing else
//!
//! Both act on what stands, not on what happened: a change only says "look here". Feeds deliver at least once, so
//! an old change may come again after newer ones have had their effect; before anything that a name has is
//! replaced or destroyed, the user or server that really is there now is looked at.

mod servers;
mod users;
pub mod verdict;

pub use servers::servers;
pub use users::users;
pub use verdict::{Said, Standing, Verdict};
