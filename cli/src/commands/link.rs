//! `vpn link`: what a user's app imports.

use std::path::Path;

use contract::{
    Code, Error, Protocol,
    keys::{self, ServerLink},
};

use super::{files::write_private, qr::Qr};
use crate::{
    args::Link,
    context::Context,
    output::{Paint, Style},
};

pub(crate) async fn run(ctx: &Context, args: Link) -> Result<(), Error> {
    let links = ctx.call(keys::Link { user: args.user.clone(), server: args.server.clone() }).await?;
    if links.links.is_empty() {
        let what = format!("there is no server that {} could connect to", args.user);
        return Err(Error::new(Code::FLEET_SERVER_NOT_FOUND, what)
            .with_hint("create one: vpn servers create NAME --protocol PROTOCOL"));
    }
    let wrote = [
        write(ctx, args.png.as_deref(), args.force, &links.links, None, |link| Qr::new(&link.link)?.png())?,
        write(ctx, args.svg.as_deref(), args.force, &links.links, None, |link| {
            Ok(Qr::new(&link.link)?.svg().into_bytes())
        })?,
        write(ctx, args.conf.as_deref(), args.force, &links.links, Some(Protocol::Wireguard), |link| {
            Ok(link.link.clone().into_bytes())
        })?,
    ];
    // Who asks for a file does not ask for the secret on the screen.
    if wrote.contains(&true) && !args.qr && ctx.output.for_people() {
        return Ok(());
    }
    let drawings = match args.qr {
        true => {
            links.links.iter().map(|link| Qr::new(&link.link).map(Some)).collect::<Result<Vec<_>, _>>()?
        }
        false => links.links.iter().map(|_| None).collect(),
    };
    ctx.output.show(&links, |style| text(&links.links, &drawings, style))
}

/// Each link under its server's name; a single one stands alone, so that it can go into a file as it is.
pub(crate) fn text(links: &[ServerLink], drawings: &[Option<Qr>], style: &Style) -> String {
    let mut text = String::new();
    for (link, drawing) in links.iter().zip(drawings) {
        if links.len() > 1 {
            let head = format!("# {} {}", link.server, link.protocol);
            text += &format!("{}\n", style.paint(Paint::Faint, &head));
        }
        if let Some(drawing) = drawing {
            text += &drawing.terminal(style.has_colour());
        }
        text += link.link.trim_end();
        text.push('\n');
    }
    text
}

/// Writes a file of the one link that it can be about; says whether it was asked to.
fn write(
    ctx: &Context,
    path: Option<&Path>,
    force: bool,
    links: &[ServerLink],
    protocol: Option<Protocol>,
    content: impl Fn(&ServerLink) -> Result<Vec<u8>, Error>,
) -> Result<bool, Error> {
    let Some(path) = path else { return Ok(false) };
    let fitting: Vec<&ServerLink> =
        links.iter().filter(|link| protocol.is_none_or(|protocol| link.protocol == protocol)).collect();
    let link = match fitting.as_slice() {
        [link] => link,
        [] => {
            let what = "there is no wireguard server among them, and only those have configuration files";
            return Err(Error::new(Code::CLI_USAGE, what)
                .with_hint("see `vpn servers list`; other links are text: vpn link USER"));
        }
        several => {
            let names: Vec<&str> = several.iter().map(|link| link.server.as_str()).collect();
            let what = format!(
                "{} holds one link, and there are {}: {}",
                path.display(),
                names.len(),
                names.join(", ")
            );
            return Err(Error::new(Code::CLI_USAGE, what).with_hint("say which: --server NAME"));
        }
    };
    write_private(path, &content(link)?, force)?;
    ctx.output.aside(&format!("wrote {} for {}", path.display(), link.server));
    Ok(true)
}
