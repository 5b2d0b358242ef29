use std::sync::Arc;

use contract::{
    Error,
    runtime::{Instances, ListInstances},
};

use crate::Serving;

/// The instances of all nodes.
pub(crate) async fn list(ctx: Arc<Serving>, _: ListInstances) -> Result<Instances, Error> {
    Ok(Instances { instances: ctx.instances.read().values().cloned().collect() })
}
