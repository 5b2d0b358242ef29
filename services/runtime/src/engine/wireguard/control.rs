//! The control socket of the device: WireGuard's cross-platform protocol
//! (<https://www.wireguard.com/xplatform/#configuration-protocol>) on a unix socket in the run directory.
//!
//! `gotatun` would make its socket in `/var/run/wireguard`; ours is where the agent looks, so only the reading of
//! commands and the writing of answers is here. Commands hold keys: they are wiped after use, and never said.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use gotatun::device::uapi::{UapiClient, command::Request};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};
use zeroize::{Zeroize as _, Zeroizing};

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

/// Serves the socket until it fails.
pub(super) async fn serve(listener: UnixListener, device: UapiClient) -> io::Error {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { continue };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return error,
        };
        let device = device.clone();
        open.spawn(async move {
            // A caller that goes away is none of the device's business.
            let _ = converse(stream, &device).await;
            drop(permit);
        });
        while open.try_join_next().is_some() {}
    }
}

/// Answers one command after another; one that can't be read ends the connection.
async fn converse(stream: UnixStream, device: &UapiClient) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let Some(command) = command(&mut read).await? else { return Ok(()) };
        // The error would hold the line that it is about, and lines hold keys.
        let request: Request = command.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let response = device.send(request).await.map_err(io::Error::other)?;
        let response = Zeroizing::new(format!("{response}\n"));
        write.write_all(response.as_bytes()).await?;
    }
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
