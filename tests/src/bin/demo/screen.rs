//! What the demo prints.

use std::io::{IsTerminal as _, stdout};

/// What comes next.
pub(crate) fn step(what: &str) {
    println!("\n{}", styled("1", what));
}

/// A command, as one would type it.
pub(crate) fn show(command: &str) {
    println!("  {}", styled("36", &format!("$ {command}")));
}

/// What came of it.
pub(crate) fn say(what: &str) {
    println!("  {what}");
}

/// A line for programs.
pub(crate) fn result(line: &str) {
    println!("{line}");
}

fn styled(style: &str, text: &str) -> String {
    match stdout().is_terminal() {
        true => format!("\x1b[{style}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}
