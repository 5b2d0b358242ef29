//! One verb on `vpn.keys.*`, one file.

mod link;
mod rotate;
mod status;

pub use link::link;
pub use rotate::rotate;
pub use status::status;
