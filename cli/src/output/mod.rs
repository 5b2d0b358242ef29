//! Tables for people, JSON and YAML for programs.
//!
//! - [`style`] colours, times and bytes as people read them
//! - [`table`] columns

mod style;
mod table;

use std::io::{self, IsTerminal, Write};

use contract::{Code, Error};
use serde::Serialize;

pub(crate) use style::{Paint, Style, bytes, harmless};
pub(crate) use table::{Cell, Table};

use crate::args::Format;

/// Where and how a command prints.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    format: Format,
    /// Whether results go to a terminal.
    terminal: bool,
    /// Whether asides do.
    error_terminal: bool,
    no_color: bool,
}

impl Output {
    pub(crate) fn new(format: Format, no_color: bool) -> Self {
        let (terminal, error_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self { format, terminal, error_terminal, no_color }
    }

    /// For what is said before the options are known: plain.
    pub(crate) fn before_options() -> Self {
        Self::new(Format::Table, true)
    }

    /// Whether people read the results, on a terminal or in a file.
    pub(crate) fn for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Whether a person can be asked, and shown what moves.
    pub(crate) fn is_interactive(&self) -> bool {
        self.error_terminal && io::stdin().is_terminal()
    }

    /// Whether a person watches stderr.
    pub(crate) fn is_watched(&self) -> bool {
        self.error_terminal
    }

    /// Prints a result: as `people` wrote it, or as a value.
    pub(crate) fn show<T: Serialize>(
        &self,
        value: &T,
        people: impl FnOnce(&Style) -> String,
    ) -> Result<(), Error> {
        let text = if self.for_people() { people(&self.style()) } else { self.written(value)? };
        self.print(&text)
    }

    /// Prints text as it is, with a line's end.
    pub(crate) fn print(&self, text: &str) -> Result<(), Error> {
        let text = text.trim_end_matches('\n');
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::new(Code::CLI_FILE, format!("standard output: {error}")))
            }
            // A reader that has seen enough, such as `head`, is no failure.
            _ => Ok(()),
        }
    }

    /// Says something to stderr that is not part of the result.
    pub(crate) fn aside(&self, text: &str) {
        if !text.is_empty() {
            // Nobody is left to tell when this fails.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Says what to mind.
    pub(crate) fn warn(&self, text: &str) {
        self.aside(&format!("{} {}", self.error_paint(Paint::Warn, "warning:"), harmless(text)));
    }

    /// The value as JSON or YAML.
    pub(crate) fn written<T: Serialize>(&self, value: &T) -> Result<String, Error> {
        let failed = |error: String| Error::new(Code::INTERNAL, error);
        match self.format {
            Format::Yaml => serde_saphyr::to_string(value).map_err(|error| failed(error.to_string())),
            Format::Json | Format::Table => {
                serde_json::to_string_pretty(value).map_err(|error| failed(error.to_string()))
            }
        }
    }

    /// How results are dressed.
    pub(crate) fn style(&self) -> Style {
        Style::new(self.terminal, self.terminal && !self.no_color)
    }

    /// Dresses a word of stderr.
    pub(crate) fn error_paint(&self, paint: Paint, text: &str) -> String {
        Style::new(self.error_terminal, self.error_terminal && !self.no_color).paint(paint, text)
    }
}
