//! `vpn completions`.

use clap::CommandFactory;
use contract::Error;

use crate::{
    args::{Args, Completions},
    context::Exit,
    output::Output,
};

pub(crate) fn run(output: &Output, args: &Completions) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "vpn", &mut script);
    output.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
