//! `make bench`: what the house costs, against the floor of the same run.
//!
//! - [`table`]      rows, their goals, the table and `target/bench.json`
//! - [`measure`]    samples in turns, medians and percentiles
//! - [`raw`]        the floors on the bus: NATS without us
//! - [`requests`]   one request: `users.create`, `users.get`
//! - [`bulk`]       10,000 users at once, and the list of them
//! - [`admission`]  from a reply to a handshake, with 10,000 users on the server
//!   - [`clients`]  whose handshake it is
//! - [`containers`] create and start, against the daemon's socket
//! - [`keygen`]     credentials, against bare key pairs
//! - [`services`]   memory and start of each service
//! - [`cli`]        `vpn --help`
//!
//! It measures and does not judge: a goal that is missed is marked, and the exit code is 0.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what cannot be measured ends the program with its reason, and its output is what it is for"
)]

mod admission;
mod bulk;
mod cli;
mod clients;
mod containers;
mod keygen;
mod measure;
mod raw;
mod requests;
mod services;
mod table;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use contract::Protocol;
use mimalloc::MiMalloc;
use table::Table;
use testkit::programs::workspace;

/// As in `vpnd`: the floors stand on the same ground.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures what the house costs, against the floor of the same run.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// What to measure [default: all of it]
    what: Vec<What>,
    /// Where the rows go as JSON [default: target/bench.json]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only servers of this protocol
    #[arg(long)]
    protocol: Option<Protocol>,
    /// What runs servers of containers: the Docker daemon's socket
    #[arg(long, env = "DOCKER_HOST")]
    docker_host: Option<String>,
    #[command(subcommand)]
    own: Option<Own>,
}

/// What this program runs of itself.
#[derive(Subcommand)]
enum Own {
    /// The least that a service can be: a connection that echoes requests
    #[command(hide = true)]
    Echo { url: String },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Requests,
    Bulk,
    Admission,
    Containers,
    Keygen,
    Services,
    Cli,
}

fn main() {
    let args = Args::parse();
    if let Some(Own::Echo { url }) = args.own {
        return raw::echo(&url);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(bench(args));
}

async fn bench(args: Args) {
    let asked = |what| args.what.is_empty() || args.what.contains(&what);
    let mut table = Table::default();
    // What is measured in microseconds comes first, while the machine is cool.
    if asked(What::Cli) {
        cli::measure(&mut table);
    }
    if asked(What::Keygen) {
        keygen::measure(&mut table);
    }
    if asked(What::Requests) {
        requests::measure(&mut table).await;
    }
    if asked(What::Services) {
        services::measure(&mut table).await;
    }
    if asked(What::Containers) {
        containers::measure(&mut table, args.docker_host.as_deref()).await;
    }
    if asked(What::Bulk) {
        bulk::measure(&mut table).await;
    }
    if asked(What::Admission) {
        admission::measure(&mut table, args.protocol).await;
    }
    table.print();
    let path = args.json.unwrap_or_else(|| workspace().join("target/bench.json"));
    table.write(&path);
    println!("\n{} rows in {}", table.rows().len(), path.display());
}
