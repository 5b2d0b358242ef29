//! `vpnd` in the background: found, started, watched until it serves.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bus::Auth;
use contract::{Code, Error};
use tokio::time::{Instant, sleep};

use super::{
    LOOK_EVERY,
    place::{Place, Process},
};
use crate::{args::up::Up, commands::status, context::Context};

/// A log that is larger is put aside at the next start; the one before that goes.
const LOG_BYTES: u64 = 10 * 1024 * 1024;
/// Enough of a log's end to hold the last words.
const TAIL_BYTES: i64 = 4_096;

/// Returns when every service answers; says whether they are ours, now or since an earlier `vpn up`.
pub(super) async fn services(
    ctx: &Context,
    place: &mut Place,
    args: &Up,
    deadline: Instant,
) -> Result<bool, Error> {
    if place.running().is_some() {
        wait(ctx, place, None, deadline).await?;
        return Ok(true);
    }
    let config = ctx.config.bus()?;
    let embedded = match ctx.bus().await {
        Ok(_) => {
            let parts = status::services(ctx).await;
            let missing = |part: &status::Part| {
                part.error.as_ref().is_some_and(|error| error.code == Code::BUS_NO_RESPONDERS)
            };
            if !parts.iter().all(missing) {
                // A house that others run: what is missing there is theirs to start.
                return parts.into_iter().find_map(|part| part.error).map_or(Ok(false), Err);
            }
            if let (Some(error), false) =
                (parts.into_iter().find_map(|part| part.error), is_local(&config.url))
            {
                return Err(error);
            }
            // The bus of a `vpnd` that was killed is taken over; another one is served as it is.
            place.left_bus().is_some()
        }
        Err(error) if error.code == Code::BUS_UNREACHABLE && is_local(&config.url) => true,
        Err(error) => return Err(error),
    };
    let child = spawn(ctx, place, args, &config, embedded)?;
    wait(ctx, place, Some(child), deadline).await?;
    Ok(true)
}

/// Whether the bus is one that this machine can bring up.
fn is_local(url: &str) -> bool {
    let address = url.strip_prefix("nats://").unwrap_or(url);
    matches!(address.rsplit_once(':'), Some(("127.0.0.1" | "localhost", _)))
}

fn spawn(
    ctx: &Context,
    place: &mut Place,
    args: &Up,
    config: &bus::Config,
    embedded: bool,
) -> Result<Child, Error> {
    let failed = |what: String| Error::new(Code::CLI_START_FAILED, what);
    let own = std::env::current_exe().map_err(|error| failed(format!("vpn cannot find itself: {error}")))?;
    let vpnd = program(ctx, &own, "vpnd").ok_or_else(|| {
        failed("the program vpnd is neither next to vpn nor on the PATH".to_owned())
            .with_hint("install it, or build it: make build")
    })?;
    if embedded && ctx.config.nats_server.is_none() && program(ctx, &vpnd, "nats-server").is_none() {
        return Err(failed("the program nats-server is neither next to vpnd nor on the PATH".to_owned())
            .with_hint("install nats-server 2.14.4 or newer: make setup"));
    }
    let mut command = Command::new(&vpnd);
    // What is typed at our terminal, and the terminal's end, are not for it.
    command.process_group(0).args(["--nats", &config.url]);
    match &config.auth {
        Auth::None => {}
        Auth::Credentials(file) => drop(command.arg("--creds").arg(file)),
        Auth::Nkey(file) => drop(command.arg("--nkey").arg(file)),
        Auth::Password { .. } | Auth::Token(_) => {
            return Err(failed("vpnd proves itself by a credentials file or an nkey only".to_owned())
                .with_hint("give NATS_CREDS or NATS_NKEY"));
        }
    }
    if let Some(file) = &config.ca_file {
        command.arg("--ca").arg(file);
    }
    command.arg("all").arg("--data").arg(place.folder());
    if embedded {
        command.arg("--embedded-bus");
    }
    if let Some(folder) = ctx.config.run_folder(place.folder()) {
        command.arg("--run-dir").arg(folder);
    }
    // Said once, it holds until something else is said.
    place.record.backend = args.backend.clone().or(place.record.backend.take());
    place.record.address = args.address.clone().or(place.record.address.take());
    for (option, value) in [("--backend", &place.record.backend), ("--address", &place.record.address)] {
        command.args(value.iter().flat_map(|value| [option, value.as_str()]));
    }
    let log = open_log(&place.log())?;
    let again = log.try_clone().map_err(|error| file_failed(&place.log(), &error))?;
    command.stdin(Stdio::null()).stdout(again).stderr(log).current_dir(place.folder());
    let child = command.spawn().map_err(|error| failed(format!("{}: {error}", vpnd.display())))?;
    place.record.process = i32::try_from(child.id()).ok().and_then(Process::of);
    place.record.url.clone_from(&config.url);
    place.save()?;
    Ok(child)
}

/// Next to another program of ours, else on the PATH.
fn program(ctx: &Context, beside: &Path, name: &str) -> Option<PathBuf> {
    let own = beside.parent().map(Path::to_owned);
    own.into_iter()
        .chain(std::env::split_paths(&ctx.config.path))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn open_log(path: &Path) -> Result<File, Error> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES) {
        fs::rename(path, path.with_extension("log.1")).map_err(|error| file_failed(path, &error))?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    log.map_err(|error| file_failed(path, &error))
}

fn file_failed(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::CLI_FILE, format!("{}: {error}", path.display()))
}

/// Waits until every service answers, as long as `vpnd` lives.
async fn wait(
    ctx: &Context,
    place: &Place,
    mut child: Option<Child>,
    deadline: Instant,
) -> Result<(), Error> {
    loop {
        let missing = match ctx.bus().await {
            Ok(_) => status::services(ctx).await.into_iter().find_map(|part| part.error),
            Err(error) if error.code == Code::BUS_UNREACHABLE => Some(error),
            Err(error) => return Err(error),
        };
        let Some(missing) = missing else { return Ok(()) };
        let ended = match &mut child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => place.running().is_none(),
        };
        let log = place.log();
        if ended {
            let words = last_words(&log).unwrap_or_else(|| "it said nothing".to_owned());
            let what = format!("vpnd ended: {words}\nlog: {}", log.display());
            return Err(Error::new(Code::CLI_START_FAILED, what));
        }
        if Instant::now() >= deadline {
            let message = format!("vpnd runs and is not ready: {}\nlog: {}", missing.message, log.display());
            return Err(Error { message, ..missing });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What `vpnd` said last, in words for people: its complaint, else the last line.
fn last_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    if file.metadata().ok()?.len() > TAIL_BYTES.unsigned_abs() {
        file.seek(SeekFrom::End(-TAIL_BYTES)).ok()?;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().rev().filter(|line| !line.is_empty()).peekable();
    let last = lines.peek().copied();
    let complaint =
        lines.find_map(|line| line.strip_prefix("vpnd: ").or_else(|| line.strip_prefix("error: ")));
    complaint.or(last).map(str::to_owned)
}
