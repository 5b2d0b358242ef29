//! `vpn link`: what a user's app imports.

use std::path::Path;

use contract::{
    Code, Error, Protocol,
    keys::{self, Links, ServerLink},
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
    // Everything is chosen and drawn before the first file is written.
    let mut files: Vec<(&Path, &ServerLink, Vec<u8>)> = Vec::new();
    if let Some(path) = args.png.as_deref() {
        let link = only(&links, path, None)?;
        files.push((path, link, Qr::new(&link.link)?.png()?));
    }
    if let Some(path) = args.svg.as_deref() {
        let link = only(&links, path, None)?;
        files.push((path, link, Qr::new(&link.link)?.svg().into_bytes()));
    }
    if let Some(path) = args.conf.as_deref() {
        let link = only(&links, path, Some(Protocol::Wireguard))?;
        files.push((path, link, link.link.clone().into_bytes()));
    }
    for (path, link, bytes) in &files {
        write_private(path, bytes, args.force)?;
        ctx.output.aside(&format!("wrote {} for {}", path.display(), link.server));
    }
    // Who asks for a file does not ask for the secret on the screen.
    if !files.is_empty() && !args.qr && ctx.output.for_people() {
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

/// The one link that a file can be about.
fn only<'l>(links: &'l Links, path: &Path, protocol: Option<Protocol>) -> Result<&'l ServerLink, Error> {
    let fitting: Vec<&ServerLink> =
        links.links.iter().filter(|link| protocol.is_none_or(|protocol| link.protocol == protocol)).collect();
    match fitting.as_slice() {
        [link] => Ok(link),
        [] => {
            let what = "there is no wireguard server among them, and only those have configuration files";
            Err(Error::new(Code::CLI_USAGE, what)
                .with_hint("see `vpn servers list`; other links are text: vpn link USER"))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|link| link.server.as_str()).collect();
            let (path, count, names) = (path.display(), names.len(), names.join(", "));
            let what = format!("{path} holds one link, and there are {count}: {names}");
            Err(Error::new(Code::CLI_USAGE, what)
                .with_hint(format!("say which: vpn link {} SERVER", links.user)))
        }
    }
}
