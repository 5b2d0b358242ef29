//! What each command does: one noun, one file.
//!
//! - [`users`], [`import`]  accounts
//! - [`servers`], [`nodes`] what should run, and where
//! - [`keys`], [`link`]     credentials, and what clients import ([`qr`], [`files`])
//! - [`stats`], [`events`]  what was used, and what happened
//! - [`status`], [`doctor`] how it all is
//! - [`up`]                 the newcomer's path, and back down
//! - [`instances`]          waits for what really runs
//! - [`explain`], [`completions`] need no bus

pub(crate) mod completions;
mod doctor;
mod events;
pub(crate) mod explain;
mod files;
mod import;
mod instances;
mod keys;
mod link;
mod nodes;
mod qr;
mod servers;
mod stats;
mod status;
mod up;
mod users;

use contract::Error;

use crate::{
    args::{self, Command, servers::Verb as Servers, users::Verb as Users},
    context::{Context, Exit},
};

/// Runs a command that needs the bus.
pub(crate) async fn run(ctx: &Context, command: Command) -> Result<Exit, Error> {
    match command {
        Command::Up(args) => up::up(ctx, args).await?,
        Command::Down(args) => up::down(ctx, args).await?,
        Command::Status => return status::run(ctx).await,
        Command::Doctor => return doctor::run(ctx).await,
        Command::Users(verb) => users::run(ctx, verb).await?,
        Command::Servers(verb) => servers::run(ctx, verb).await?,
        Command::Nodes(verb) => nodes::run(ctx, verb).await?,
        Command::Keys(verb) => keys::run(ctx, verb).await?,
        Command::Stats(verb) => stats::run(ctx, verb).await?,
        Command::Events(args) => events::run(ctx, args).await?,
        Command::Link(args) => link::run(ctx, args).await?,
        Command::Explain(args) => return explain::run(&ctx.output, &args),
        Command::Completions(args) => return completions::run(&ctx.output, &args),
    }
    Ok(Exit::Done)
}

impl Command {
    /// Its name in traces.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "vpn up",
            Self::Down(_) => "vpn down",
            Self::Status => "vpn status",
            Self::Doctor => "vpn doctor",
            Self::Users(verb) => match verb {
                Users::Create(_) => "vpn users create",
                Users::List(_) => "vpn users list",
                Users::Show { .. } => "vpn users show",
                Users::Update(_) => "vpn users update",
                Users::Suspend { .. } => "vpn users suspend",
                Users::Resume { .. } => "vpn users resume",
                Users::Delete { .. } => "vpn users delete",
                Users::Link(_) => "vpn users link",
                Users::Import(_) => "vpn users import",
            },
            Self::Servers(verb) => match verb {
                Servers::Create(_) => "vpn servers create",
                Servers::List { .. } => "vpn servers list",
                Servers::Show { .. } => "vpn servers show",
                Servers::Update(_) => "vpn servers update",
                Servers::Start(_) => "vpn servers start",
                Servers::Stop(_) => "vpn servers stop",
                Servers::Restart(_) => "vpn servers restart",
                Servers::Delete { .. } => "vpn servers delete",
            },
            Self::Nodes(args::Nodes::List) => "vpn nodes list",
            Self::Nodes(args::Nodes::Show { .. }) => "vpn nodes show",
            Self::Nodes(args::Nodes::Inspect { .. }) => "vpn nodes inspect",
            Self::Keys(args::Keys::Rotate { .. }) => "vpn keys rotate",
            Self::Keys(args::Keys::Status) => "vpn keys status",
            Self::Stats(args::stats::Verb::Usage(_)) => "vpn stats usage",
            Self::Stats(args::stats::Verb::Top(_)) => "vpn stats top",
            Self::Events(_) => "vpn events",
            Self::Link(_) => "vpn link",
            Self::Explain(_) => "vpn explain",
            Self::Completions(_) => "vpn completions",
        }
    }

    /// Whether it changes anything: then its trace is always kept.
    pub(crate) fn changes(&self) -> bool {
        match self {
            Self::Up(_) | Self::Down(_) => true,
            Self::Users(verb) => !matches!(verb, Users::List(_) | Users::Show { .. } | Users::Link(_)),
            Self::Servers(verb) => !matches!(verb, Servers::List { .. } | Servers::Show { .. }),
            Self::Keys(verb) => matches!(verb, args::Keys::Rotate { .. }),
            _ => false,
        }
    }
}
