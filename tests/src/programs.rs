//! The programs that users have.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// `vpnd` or `vpn`, of the same build as this program.
///
/// # Panics
/// Where it was not built.
pub fn ours(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // Tests are one folder further down, in `deps`.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not built: run `make build`, or `make test` for tests"))
}

/// What a program said, or how it failed.
///
/// # Panics
/// Where it cannot be started.
pub fn said(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        return Ok(said);
    }
    Err(format!("{command:?}: {status}\n{said}{}", String::from_utf8_lossy(&stderr)))
}
