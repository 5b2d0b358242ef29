//! later
use crate::{
    args::up::{Down, Up},
    context::Context,
};
use contract::Error;
pub(crate) async fn up(_: &Context, _: Up) -> Result<(), Error> {
    Ok(())
}
pub(crate) async fn down(_: &Context, _: Down) -> Result<(), Error> {
    Ok(())
}
