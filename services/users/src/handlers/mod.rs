//! One verb, one file.

mod create;
mod create_many;
mod delete;
mod get;
mod list;
mod resume;
mod suspend;
mod update;

pub use create::create;
pub use create_many::create_many;
pub use delete::delete;
pub use get::get;
pub use list::list;
pub use resume::resume;
pub use suspend::suspend;
pub use update::update;
