//! Every option there is.
//!
//! - [`users`], [`servers`] the verbs of the two nouns that have many
//! - [`stats`]              what was used
//! - [`events`]             what happens to containers
//! - [`up`]                 the newcomer's path
//! - [`value`]              values that people write: durations, moments

pub(crate) mod events;
pub(crate) mod servers;
pub(crate) mod stats;
pub(crate) mod up;
pub(crate) mod users;
pub(crate) mod value;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use contract::{NodeName, ServerName, UserName};

const EXAMPLES: &str = "\
Examples:
  vpn up                                start everything, with a first server and user
  vpn users create alice --quota 50GB --every month --expires 90d
  vpn link alice --qr                   what alice's app scans
  vpn users list -o json | jq .         for programs
  vpn doctor                            what is wrong, and its cure

Exit codes:
  0 done    1 refused or failed    2 not understood    69 bus or service not there
  75 no answer in time, try again    77 not allowed on the bus";

/// VPN servers and their users, on a NATS bus.
#[derive(Debug, Parser)]
#[command(name = "vpn", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 110)]
#[command(disable_help_subcommand = true, infer_subcommands = false)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The bus's URL [env: NATS_URL; default: that of the nats context, else nats://127.0.0.1:4222]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// The context of the `nats` command to use [env: NATS_CONTEXT; default: the selected one]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// How long to wait for an answer, such as 500ms or 10s [default: 8s]
    #[arg(long, global = true, value_name = "TIME", value_parser = value::duration)]
    pub(crate) timeout: Option<Duration>,
    /// How to print what comes back: table, json or yaml [default: table]
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    pub(crate) output: Format,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything: bus, services, a first server and user; print the user's link
    Up(up::Up),
    /// Stop what `vpn up` started
    Down(up::Down),
    /// What runs, in a few lines
    Status,
    /// Look at every part, and say the cure of what is wrong
    Doctor,
    /// Accounts: who may connect, until when and how much
    #[command(subcommand, arg_required_else_help = true)]
    Users(users::Verb),
    /// VPN servers
    #[command(subcommand, arg_required_else_help = true)]
    Servers(servers::Verb),
    /// Hosts that servers run on
    #[command(subcommand, arg_required_else_help = true)]
    Nodes(Nodes),
    /// Credentials
    #[command(subcommand, arg_required_else_help = true)]
    Keys(Keys),
    /// What users, servers and nodes send and receive
    #[command(subcommand, arg_required_else_help = true)]
    Stats(stats::Verb),
    /// What happened to containers, and what happens
    #[command(after_help = events::EXAMPLES)]
    Events(events::Events),
    /// What a user's app imports: links, QR codes, files
    Link(Link),
    /// What an error code means and what to do about it
    Explain(Explain),
    /// Print a script that completes `vpn` in a shell
    #[command(after_help = COMPLETIONS)]
    Completions(Completions),
}

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum Nodes {
    /// List the nodes
    List,
    /// Show one node
    #[command(visible_alias = "get")]
    Show {
        /// Which
        node: NodeName,
    },
    /// Have a node look at what it is made of: daemon, programs, rights
    Inspect {
        /// Which
        node: NodeName,
    },
}

/// What can be done with credentials.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Replace a user's credentials: links made before are void, and open connections end
    Rotate {
        /// Whose
        user: UserName,
    },
    /// Count what has been issued
    Status,
}

const LINK_EXAMPLES: &str = "\
Examples:
  vpn link alice --qr                                scan it with v2rayNG, Hiddify or Streisand
  vpn link alice reality-443 --png alice.png
  vpn link alice wg-51820 --conf alice.conf

A link holds the user's secret: files are made for their owner alone (0600).";

/// Links of a user.
#[derive(Debug, clap::Args)]
#[command(after_help = LINK_EXAMPLES)]
pub(crate) struct Link {
    /// Whose
    pub(crate) user: UserName,
    /// For which server; for all of them when absent
    pub(crate) server: Option<ServerName>,
    /// Draw a QR code in the terminal
    #[arg(long)]
    pub(crate) qr: bool,
    /// Write a QR code as a picture
    #[arg(long, value_name = "FILE")]
    pub(crate) png: Option<PathBuf>,
    /// Write a QR code as a drawing
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write a WireGuard configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) conf: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    pub(crate) force: bool,
}

/// What to explain.
#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// The code, such as users.name_taken; all of them without one
    pub(crate) code: Option<String>,
    /// All of them as a page: docs/errors.md
    #[arg(long, conflicts_with = "code")]
    pub(crate) markdown: bool,
}

const COMPLETIONS: &str = "\
Examples:
  vpn completions bash > ~/.local/share/bash-completion/completions/vpn
  vpn completions zsh  > \"${fpath[1]}/_vpn\"
  vpn completions fish > ~/.config/fish/completions/vpn.fish";

/// Which shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Which
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}
