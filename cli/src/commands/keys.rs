//! `vpn keys`.

use contract::{Error, keys};

use crate::{args::Keys, context::Context, output::Table};

pub(crate) async fn run(ctx: &Context, verb: Keys) -> Result<(), Error> {
    match verb {
        Keys::Rotate { user } => {
            let rotated = ctx.call(keys::Rotate { user }).await?;
            ctx.output.show(&rotated, |_| {
                format!("{}   generation {}, links made before are void", rotated.user, rotated.generation)
            })?;
            ctx.started(Some(&format!("vpn link {} --qr", rotated.user)));
        }
        Keys::Status => {
            let status = ctx.call(keys::Status {}).await?;
            ctx.output.show(&status, |style| {
                let mut table = Table::lines();
                table.row(["users".into(), status.users.to_string().into(), "have credentials".into()]);
                table.row(["servers".into(), status.servers.to_string().into(), "have keys".into()]);
                table.row(["nodes".into(), status.nodes.to_string().into(), "may open something".into()]);
                table.render(style) + &format!("curve key {}", status.curve_key)
            })?;
        }
    }
    Ok(())
}
