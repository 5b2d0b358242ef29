//! `vpn`, the operator's command.
//!
//! - [`args`]     every option there is, and nothing else declares any
//! - [`config`]   the environment, and how the bus is found
//! - [`commands`] one noun, one file
//! - [`context`]  what a command gets: the bus, deadlines, where it prints
//! - [`output`]   tables for people, JSON and YAML for programs
//! - [`error`]    one block, and exit codes that mean something

mod args;
mod commands;
mod config;
mod context;
mod error;
mod output;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use contract::Error;
use mimalloc::MiMalloc;

use crate::{
    config::Config,
    context::{Context, Exit},
    error::Failure,
    output::Output,
};

/// As in `vpnd`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(refused) => return error::usage(&refused),
    };
    let config = Config::from_environment(&args.global);
    let output = Output::new(args.global.output, config.no_color);
    // What needs no bus starts neither a runtime nor telemetry.
    let done = match args.command {
        Command::Explain(explain) => commands::explain::run(&output, &explain).map_err(Failure::from),
        Command::Completions(shell) => commands::completions::run(&output, &shell).map_err(Failure::from),
        command => run(config, output.clone(), command),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => error::show(&output, &failure),
    }
}

fn run(config: Config, output: Output, command: Command) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(contract::Code::INTERNAL, error.to_string()))?;
    runtime.block_on(async {
        let telemetry = telemetry::init(&config.telemetry()).map_err(Error::from)?;
        let result = Context::new(config, output).run(command).await;
        telemetry.shutdown(context::FLUSH_WITHIN).await;
        result
    })
}
