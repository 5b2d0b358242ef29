//! What the program thinks of its configuration, before it starts from it.

use std::{path::Path, process::Stdio, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use contract::Code;
use tokio::process::Command;

use super::{Place, config::ACCESS_LOG, files};
use crate::backend::Error;

/// 0.4 s with 10,000 users; a loaded node gets time.
const WITHIN: Duration = Duration::from_secs(20);
/// The reason is at the end of one long line.
const SHOWN: usize = 300;

/// Has the program read the file, which it does without starting anything.
pub(super) async fn check(place: &Place, config: &Path, secret: &[u8]) -> Result<(), Error> {
    let program = place.program.display();
    let mut command = Command::new(&place.program);
    command.args(["run", "-test", "-c"]).arg(config).envs(place.env.iter().cloned());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(WITHIN, command.output()).await.map_err(|_| {
        let message = format!("{program} did not read its configuration within {WITHIN:?}");
        Error::new(Code::RUNTIME_ENGINE_FAILED, message)
    })?;
    let output = output.map_err(|error| {
        Error::new(Code::RUNTIME_PROGRAM_MISSING, format!("{program} cannot be started: {error}"))
    })?;
    // It opens its log, as the user that we are.
    files::remove(&place.run_dir.join(ACCESS_LOG))
        .map_err(|error| Error::file("clear", &place.run_dir, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stdout);
    let message = format!("{program} refuses its configuration: {}", reason(&words, secret));
    Err(Error::new(Code::RUNTIME_ENGINE_FAILED, message))
}

/// The end of what it said, without the server's key in any of its forms.
fn reason(words: &str, secret: &[u8]) -> String {
    let line = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    let line = line.replace(&STANDARD.encode(secret), "…").replace(&URL_SAFE_NO_PAD.encode(secret), "…");
    let skipped = line.chars().count().saturating_sub(SHOWN);
    line.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_its_last_line_without_the_key() {
        let secret = [7; 32];
        let words = format!(
            "Xray 26.3.27\nFailed to start: main: invalid privateKey: {} and {}\n\n",
            URL_SAFE_NO_PAD.encode(secret),
            STANDARD.encode(secret)
        );
        assert_eq!(reason(&words, &secret), "Failed to start: main: invalid privateKey: … and …");
    }
}
