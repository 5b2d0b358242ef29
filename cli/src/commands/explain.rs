//! `vpn explain`: what an error means, without asking anybody.

use contract::{
    Code, Error,
    error::{CATALOGUE, Entry},
};
use serde::Serialize;

use crate::{
    args::Explain,
    context::Exit,
    error::exit_code,
    output::{Output, Paint, Table},
};

/// An entry of the catalogue, as it is shown.
#[derive(Serialize)]
struct Explained {
    code: &'static str,
    title: &'static str,
    hint: &'static str,
    status: u16,
    exit_code: u8,
}

impl From<&'static Entry> for Explained {
    fn from(entry: &'static Entry) -> Self {
        let Entry { code, status, title, hint } = *entry;
        Self { code, title, hint, status, exit_code: exit_code(&Code::from_text(code)) }
    }
}

pub(crate) fn run(output: &Output, args: &Explain) -> Result<Exit, Error> {
    match &args.code {
        _ if args.markdown => output.print(&page())?,
        None => {
            let all: Vec<Explained> = CATALOGUE.iter().map(Explained::from).collect();
            output.show(&all, |style| {
                let mut table = Table::new(["CODE", "MEANING"]);
                all.iter().for_each(|entry| table.row([entry.code.into(), entry.title.into()]));
                table.render(style) + "more: vpn explain CODE"
            })?;
        }
        Some(code) => {
            let Some(entry) = Code::from_text(code).entry().map(Explained::from) else {
                return Err(unknown(code));
            };
            output.show(&entry, |style| {
                let code = style.paint(Paint::Strong, entry.code);
                let numbers = format!("status {} on the bus, exit code {}", entry.status, entry.exit_code);
                let numbers = style.paint(Paint::Faint, &numbers);
                format!("{code}: {}\n{}\n{numbers}", entry.title, entry.hint)
            })?;
        }
    }
    Ok(Exit::Done)
}

/// With the nearest code as the hint: the one that shares the most of the text's parts.
fn unknown(code: &str) -> Error {
    let parts: Vec<&str> = code.split(['.', '_']).collect();
    let shared = |entry: &&Entry| {
        entry
            .code
            .split(['.', '_'])
            .filter(|part| parts.iter().any(|given| given.eq_ignore_ascii_case(part)))
            .count()
    };
    let error = Error::new(Code::CLI_UNKNOWN_CODE, format!("{code:?} is the code of no error"));
    match CATALOGUE.iter().max_by_key(shared).filter(|nearest| shared(nearest) > 0) {
        Some(nearest) => {
            error.with_hint(format!("perhaps {}; `vpn explain` lists all of them", nearest.code))
        }
        None => error.with_hint("`vpn explain` lists all of them"),
    }
}

/// `docs/errors.md`. A heading's anchor is the code without its dot, which is what an error's `docs` says.
fn page() -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Made from the catalogue in `shared/contract/src/error.rs` by `vpn explain --markdown > docs/errors.md`; a test\n\
         compares the two. The status is the one on the bus (`Nats-Service-Error-Code`); the exit code is `vpn`'s.\n\n\
         | exit code | means |\n|---|---|\n\
         | 0 | done |\n\
         | 1 | refused or failed |\n\
         | 2 | the command line cannot be understood |\n\
         | 69 | the bus or a service is not there, or cannot be used |\n\
         | 75 | no answer in time: try again |\n\
         | 77 | the bus refuses these credentials |\n",
    );
    let mut group = "";
    for entry in CATALOGUE {
        let (of, _) = entry.code.split_once('.').unwrap_or((entry.code, ""));
        if of != group {
            group = of;
            page += &format!("\n## {of}.*\n");
        }
        let exit = exit_code(&Code::from_text(entry.code));
        page += &format!(
            "\n### {}\n\n{} (status {}, exit code {exit})\n\n{}\n",
            entry.code, entry.title, entry.status, entry.hint
        );
    }
    page
}
