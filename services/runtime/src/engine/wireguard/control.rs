//! The control socket of the device: WireGuard's cross-platform protocol
//! (<https://www.wireguard.com/xplatform/#configuration-protocol>) on a unix socket in the run directory.
//!
//! `gotatun` would make its socket in `/var/run/wireguard`; ours is where the agent looks, so only the reading of
//! commands and the writing of answers is here. Commands hold keys: they are wiped after use, and never said.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use contract::usage::Traffic;
use gotatun::device::uapi::{UapiClient, command::Request};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::uapi::{Key, TRAFFIC};

/// The socket in the run directory.
pub(super) const SOCKET: &str = "wg.sock";
/// One command. The agent sends a hundred peers at a time, 30 kB; `wg setconf` might send all of them.
const COMMAND: u64 = 16 * 1024 * 1024;
/// Connections at a time: the agent needs one or two, and a person with `wg` another.
const CONNECTIONS: usize = 8;

/// The control socket's path.
pub(super) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET)
}

/// Makes the socket, for its owner alone, in place of what an earlier run left.
pub(super) fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let path = socket_path(run_dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody gets through the run directory but its owner, so there is no moment at which others could connect.
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A question what came from each peer and went to it, with where the answer goes.
pub(super) type Asked = oneshot::Sender<Vec<(Key, Traffic)>>;

/// Who answers the commands: the device itself, and its counters.
#[derive(Clone)]
pub(super) struct Answers {
    pub(super) device: UapiClient,
    pub(super) traffic: mpsc::Sender<Asked>,
}

/// Serves the socket until it fails.
pub(super) async fn serve(listener: UnixListener, answers: Answers) -> io::Error {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { continue };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return error,
        };
        let answers = answers.clone();
        open.spawn(async move {
            // A caller that goes away is none of the device's business.
            let _ = converse(stream, &answers).await;
            drop(permit);
        });
        while open.try_join_next().is_some() {}
    }
}

/// Answers one command after another; one that can't be read ends the connection.
async fn converse(stream: UnixStream, answers: &Answers) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let Some(command) = command(&mut read).await? else { return Ok(()) };
        if command.as_str() == TRAFFIC {
            write.write_all(traffic(&answers.traffic).await?.as_bytes()).await?;
            continue;
        }
        // The error would hold the line that it is about, and lines hold keys.
        let request: Request = command.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let response = answers.device.send(request).await.map_err(io::Error::other)?;
        let response = Zeroizing::new(format!("{response}\n"));
        write.write_all(response.as_bytes()).await?;
    }
}

async fn traffic(asks: &mpsc::Sender<Asked>) -> io::Result<String> {
    let (asked, answer) = oneshot::channel();
    asks.send(asked).await.map_err(io::Error::other)?;
    let mut text = String::new();
    for (peer, Traffic { up, down }) in answer.await.map_err(io::Error::other)? {
        // Writing to a string can't fail.
        let _ = text.write_str("public_key=");
        for byte in peer {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = writeln!(text, "\nrx_bytes={up}\ntx_bytes={down}");
    }
    text.push_str("errno=0\n\n");
    Ok(text)
}

/// The lines up to an empty one; none at the end.
async fn command(
    read: &mut BufReader<tokio::net::unix::OwnedReadHalf>,
) -> io::Result<Option<Zeroizing<String>>> {
    let mut read = read.take(COMMAND);
    let mut command = Zeroizing::new(String::new());
    loop {
        let before = command.len();
        if read.read_line(&mut command).await? == 0 {
            command.zeroize();
            return Ok(None);
        }
        if command.get(before..) == Some("\n") {
            command.truncate(before);
            if !command.is_empty() {
                return Ok(Some(command));
            }
        }
    }
}
