//! One verb, one file.

mod top;
mod usage;

use contract::{Timestamp, stats::Total, usage::Traffic};
pub(crate) use top::top;
pub(crate) use usage::usage;

use crate::fold::Sum;

fn total(sum: Sum, rate: Traffic) -> Total {
    let ever = sum.last_millis != 0;
    let last_at = ever.then(|| Timestamp::from_millisecond(sum.last_millis).ok()).flatten();
    Total { traffic: sum.traffic, rate, last_at }
}
