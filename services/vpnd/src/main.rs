//! The one server binary: `vpnd users`, `vpnd runtime`, …, or `vpnd all`.
//!
//! - [`config`]   arguments and environment, read here and nowhere else
//! - [`services`] which service runs with which connection
//! - [`embedded`] the nats-server that `vpnd all --embedded-bus` brings along

mod config;
mod embedded;
mod services;

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use bus::Shutdown;
use clap::Parser;
use config::{Args, Command, Common};
use mimalloc::MiMalloc;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// musl's own is slow where several threads allocate: 10,000 users took 1.7 s instead of 0.9.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The last spans get so long to leave.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        // The device gives up its rights thread by thread, so it comes before any other thread.
        Command::WireguardDevice(device) => {
            runtime::engine::wireguard::run_device(&device.into()).map_err(anyhow::Error::new)
        }
        command => start(args.common, command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// A thread for each processor where all services share them, and one for a service alone: each costs it memory, and
/// what takes long has threads of its own.
fn start(common: Common, command: Command) -> anyhow::Result<()> {
    let mut threads = Builder::new_multi_thread();
    if !matches!(command, Command::All(_)) {
        threads.worker_threads(1);
    }
    // On such a thread, and not on the first one: two stacks take more memory than one.
    threads.enable_all().build()?.block_on(async { tokio::spawn(run(common, command)).await? })
}

async fn run(common: Common, command: Command) -> anyhow::Result<()> {
    let telemetry = telemetry::init(&common.telemetry(command.name()))?;
    let shutdown = Shutdown::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        asked.begin();
    });
    let served = services::run(common, command, shutdown).await;
    telemetry.shutdown(FLUSH_WITHIN).await;
    served.context("vpnd stops")
}

/// Before the log stands there is only stderr.
#[allow(clippy::print_stderr)]
fn complain(error: &anyhow::Error) {
    eprintln!("vpnd: {error:#}");
}
