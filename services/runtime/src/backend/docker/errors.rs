//! What the daemon refuses, in the catalogue's words.
//!
//! The daemon has a status code and a sentence; what can be done about it is in the sentence. The sentences are
//! those of Docker 20.10 to 29 (moby's `daemon`, `libnetwork` and runc), in lower case.

use std::{io, path::Path, time::Duration};

use bollard::errors::Error as Refusal;
use contract::Code;

use super::Error;

/// The daemon did not finish in time.
pub(super) fn timeout(call: &'static str, deadline: Duration) -> Error {
    Error::new(
        Code::RUNTIME_BACKEND_TIMEOUT,
        format!("docker {call} was not answered within {} ms", deadline.as_millis()),
    )
}

/// What a failed call means.
pub(super) fn translate(call: &'static str, socket: &Path, error: Refusal) -> Error {
    match error {
        Refusal::DockerResponseServerError { status_code, message } => refused(call, status_code, &message),
        Refusal::DockerStreamError { error } => refused(call, 500, &error),
        Refusal::RequestTimeoutError => {
            Error::new(Code::RUNTIME_BACKEND_TIMEOUT, format!("docker {call} was not answered in time"))
        }
        Refusal::SocketNotFoundError(path) => {
            Error::new(Code::RUNTIME_BACKEND_UNREACHABLE, format!("there is no docker socket {path}"))
        }
        Refusal::HyperLegacyError { .. } | Refusal::HyperResponseError { .. } | Refusal::IOError { .. } => {
            let why = innermost(&error);
            let message = format!("docker {call} got no answer on {}: {why}", socket.display());
            Error::new(Code::RUNTIME_BACKEND_UNREACHABLE, message)
        }
        other => Error::new(
            Code::RUNTIME_BACKEND_REFUSED,
            format!("docker {call}: an answer that makes no sense: {other}"),
        ),
    }
}

fn refused(call: &'static str, status: u16, message: &str) -> Error {
    let lower = message.to_ascii_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    let code = if says(&["no space left on device", "disk quota exceeded"]) {
        Code::RUNTIME_DISK_FULL
    } else if says(&["port is already allocated", "address already in use", "ports are not available"]) {
        Code::RUNTIME_PORT_IN_USE
    } else if says(&[
        "no such image",
        "manifest unknown",
        "manifest for ",
        "repository does not exist",
        "pull access denied",
    ]) || (status == 404 && says(&["not found: manifest", "image not known"]))
    {
        Code::RUNTIME_IMAGE_MISSING
    } else if status == 404 && says(&["no such container"]) {
        Code::RUNTIME_INSTANCE_MISSING
    } else if status == 409 {
        Code::RUNTIME_INSTANCE_CONFLICT
    } else if says(&["executable file not found", "exec format error"])
        || (says(&["exec: "]) && says(&["no such file or directory"]))
    {
        Code::RUNTIME_PROGRAM_MISSING
    } else if says(&["operation not permitted", "permission denied", "/dev/net/tun"]) || status == 403 {
        Code::RUNTIME_NOT_PERMITTED
    } else if says(&["context deadline exceeded"]) || status == 504 {
        Code::RUNTIME_BACKEND_TIMEOUT
    } else {
        Code::RUNTIME_BACKEND_REFUSED
    };
    Error::new(code, format!("docker {call}: {}", message.trim()))
}

/// hyper wraps what the kernel said a few times over.
fn innermost(error: &Refusal) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::PermissionDenied) => {
            "permission denied; run the agent as root or as a member of the socket's group".to_owned()
        }
        Some(io::ErrorKind::ConnectionRefused) => "nobody listens on it".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_daemons_say_is_understood() {
        let endpoint = "driver failed programming external connectivity on endpoint vpn.n.s (abc): ";
        for (status, message, code) in [
            (404, "No such image: nobody/nothing:1".to_owned(), Code::RUNTIME_IMAGE_MISSING),
            (404, "No such container: vpn.n.s".to_owned(), Code::RUNTIME_INSTANCE_MISSING),
            (409, "Conflict. The container name \"/x\" is already in use".to_owned(), Code::RUNTIME_INSTANCE_CONFLICT),
            (500, format!("{endpoint}Bind for 0.0.0.0:8443 failed: port is already allocated"), Code::RUNTIME_PORT_IN_USE),
            (500, format!("{endpoint}Error starting userland proxy: listen tcp4 0.0.0.0:22: bind: address already in use"), Code::RUNTIME_PORT_IN_USE),
            (500, "mkdir /var/lib/docker/overlay2/x: no space left on device".to_owned(), Code::RUNTIME_DISK_FULL),
            (400, "OCI runtime create failed: exec: \"/xray\": stat /xray: no such file or directory: unknown".to_owned(), Code::RUNTIME_PROGRAM_MISSING),
            (500, "error gathering device information while adding custom device \"/dev/net/tun\": no such file or directory".to_owned(), Code::RUNTIME_NOT_PERMITTED),
            (400, "Minimum memory limit allowed is 6MB".to_owned(), Code::RUNTIME_BACKEND_REFUSED),
        ] {
            let error = refused("start", status, &message);
            assert_eq!(error.code, code, "{message}");
            assert!(error.message.contains(&message), "what the daemon said is not lost: {}", error.message);
        }
    }
}
