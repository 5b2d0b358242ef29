//! `vpn detach`: what `vpn up` starts must outlive the terminal it was started in.

use std::{os::unix::process::CommandExt, process::Command};

use contract::{Code, Error};

use crate::{args::Detach, context::Exit};

/// Begins a session of its own and becomes the program; returns only if that fails.
pub(crate) fn run(args: &Detach) -> Result<Exit, Error> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Err(Error::new(Code::CLI_START_FAILED, format!("{what}: {error}")))
    };
    if let Err(error) = rustix::process::setsid() {
        return failed("a session of its own", &error);
    }
    let Some((program, arguments)) = args.program.split_first() else {
        return failed("nothing to start", &"give a program");
    };
    failed(&program.to_string_lossy(), &Command::new(program).args(arguments).exec())
}
