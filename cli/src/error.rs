//! An error is one block: what went wrong, with which value; what to do next; where to read more. And exit codes
//! that mean something.

use std::{error::Error as _, process::ExitCode};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use contract::{Code, Error, Invalid};
use serde::Serialize;

use crate::output::{Output, Paint, harmless};

/// Refused or failed.
const FAILED: u8 = 1;
/// The command line cannot be understood.
const USAGE: u8 = 2;
/// The bus or a service is not there, or is none that can be used (`EX_UNAVAILABLE` of sysexits.h).
const UNAVAILABLE: u8 = 69;
/// No answer in time: trying again may help (`EX_TEMPFAIL`).
const TRY_AGAIN: u8 = 75;
/// The bus refuses these credentials (`EX_NOPERM`).
const NOT_ALLOWED: u8 = 77;

/// The exit code for an error: part of the interface, shown in `vpn --help` and docs/errors.md.
pub(crate) fn exit_code(code: &Code) -> u8 {
    if *code == Code::CLI_USAGE || *code == Code::CLI_CONTEXT_INVALID {
        USAGE
    } else if *code == Code::BUS_NOT_ALLOWED {
        NOT_ALLOWED
    } else if [Code::BUS_TIMEOUT, Code::REQUEST_TIMEOUT, Code::SERVICE_OVERLOADED, Code::SERVICE_STOPPING]
        .contains(code)
    {
        TRY_AGAIN
    } else if [Code::BUS_UNREACHABLE, Code::BUS_NO_RESPONDERS, Code::BUS_TOO_OLD, Code::BUS_NO_JETSTREAM]
        .contains(code)
    {
        UNAVAILABLE
    } else {
        FAILED
    }
}

/// An error and the trace that shows where it came from.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    #[serde(flatten)]
    error: Error,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

impl Failure {
    /// What failed here, or never got as far as the bus, has no trace worth a look.
    pub(crate) fn traced(error: Error, trace: Option<String>) -> Self {
        let asked = exit_code(&error.code) != UNAVAILABLE || error.code == Code::BUS_NO_RESPONDERS;
        let ours = error.code.as_str().starts_with("cli.");
        Self { trace: trace.filter(|_| asked && !ours), error }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, trace: None }
    }
}

/// Prints it to stderr: as a block for people, as one value where results are for programs.
pub(crate) fn show(output: &Output, failure: &Failure) -> ExitCode {
    let error = &failure.error;
    if output.for_people() {
        let mut lines = error.message.lines().map(harmless);
        let mut text = output.error_paint(Paint::Bad, &format!("error[{}]", error.code));
        text += &format!(": {}\n", lines.next().unwrap_or_default());
        lines.for_each(|line| text += &format!("  {line}\n"));
        if !error.hint.is_empty() {
            text += &format!("{} {}\n", output.error_paint(Paint::Strong, "help:"), harmless(&error.hint));
        }
        if error.code.entry().is_some() {
            text += &format!("{} vpn explain {}\n", output.error_paint(Paint::Strong, "more:"), error.code);
        }
        if let Some(trace) = &failure.trace {
            text += &format!("{} {trace}\n", output.error_paint(Paint::Strong, "trace:"));
        }
        output.aside(text.trim_end());
    } else if let Ok(text) = output.written(failure) {
        output.aside(text.trim_end());
    }
    exit_code(&error.code).into()
}

/// What clap refused, in the same shape; `--help` and `--version` arrive here too.
pub(crate) fn usage(refused: &clap::Error) -> ExitCode {
    if !refused.use_stderr() {
        // A reader that left early is no failure.
        let _ = refused.print();
        return ExitCode::SUCCESS;
    }
    if refused.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = refused.print();
        return USAGE.into();
    }
    // Options are not known yet, so it is for people.
    let output = Output::before_options();
    let text = refused.render().to_string();
    let (said, usage) = text.split_once("\n\nUsage: ").unwrap_or((&text, ""));
    let usage = usage.lines().next().unwrap_or_default();
    let error = match refused.source().and_then(|source| source.downcast_ref::<Invalid>()) {
        Some(invalid) => {
            let of = match refused.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(argument)) => format!("{argument}: "),
                _ => String::new(),
            };
            Error::new(invalid.code.clone(), format!("{of}{}", invalid.message))
        }
        None => {
            let said = said.strip_prefix("error: ").unwrap_or(said);
            let (what, tip) = said.split_once("\n\n").unwrap_or((said, ""));
            let what: Vec<&str> = what.lines().map(str::trim_end).collect();
            let what = what.join("\n").trim_end_matches("\n\nFor more information, try '--help'.").to_owned();
            let tip = tip.trim().strip_prefix("tip: ").filter(|_| !tip.contains("For more information"));
            let error = Error::new(Code::CLI_USAGE, what);
            match tip.and_then(|tip| tip.lines().next()) {
                Some(tip) => error.with_hint(tip),
                None if usage.is_empty() => error,
                None => error.with_hint(format!("usage: {usage}")),
            }
        }
    };
    show(&output, &error.into());
    USAGE.into()
}
