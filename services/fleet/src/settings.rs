//! Pure: what a server may ask for, and what an agent may say of itself.

use std::net::IpAddr;

use contract::{
    Protocol,
    fleet::{Announce, Reality, Resources},
    value::is_host_name,
};
use ipnet::IpNet;

use crate::{
    config::{ALLOW_PRIVATE_MAX, MEMORY_MIN, PIDS_MIN, SERVER_NAMES_MAX, TEXT_MAX},
    error::Error,
};

/// Whether a server's settings fit its protocol and each other.
pub fn check(
    protocol: Protocol,
    reality: Option<&Reality>,
    resources: &Resources,
    allow_private: &[IpNet],
) -> Result<(), Error> {
    match (protocol, reality) {
        (Protocol::VlessReality, None) => {
            return refuse("reality: vless-reality needs a dest and server names to pretend to be");
        }
        (Protocol::VlessReality, Some(reality)) => check_reality(reality)?,
        (other, Some(_)) => return refuse(format!("reality: it is for vless-reality only, not for {other}")),
        (_, None) => {}
    }
    check_resources(resources)?;
    match allow_private.len() {
        0..=ALLOW_PRIVATE_MAX => Ok(()),
        more => refuse(format!("allow_private: {more} ranges are more than {ALLOW_PRIVATE_MAX}")),
    }
}

fn check_reality(reality: &Reality) -> Result<(), Error> {
    match reality.server_names.len() {
        0 => return refuse("reality.server_names: at least one name is needed; the first is in links"),
        1..=SERVER_NAMES_MAX => {}
        more => return refuse(format!("reality.server_names: {more} are more than {SERVER_NAMES_MAX}")),
    }
    match reality.server_names.iter().find(|name| !is_host_name(name)) {
        Some(bad) => refuse(format!("reality.server_names: \"{}\" is not a host name", shown(bad))),
        None => Ok(()),
    }
}

fn check_resources(resources: &Resources) -> Result<(), Error> {
    let (memory, pids) = (resources.memory.get(), resources.pids);
    if memory < MEMORY_MIN {
        refuse(format!(
            "resources.memory: {memory} bytes are less than {MEMORY_MIN}; no engine starts with it"
        ))
    } else if pids < PIDS_MIN {
        refuse(format!("resources.pids: {pids} are fewer than {PIDS_MIN}; no engine starts with them"))
    } else {
        Ok(())
    }
}

/// Whether what an agent says of itself can go into links, tables and keys.
pub fn check_announced(announce: &Announce) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::Announcement(what));
    let host = &announce.address.host;
    if !is_host_name(host) && host.parse::<IpAddr>().is_err() {
        return refuse(format!("address.host: \"{}\" is neither a host name nor an address", shown(host)));
    }
    let key = &announce.curve_key;
    // The shape only: `X` and base32. Whether it is a point is found by who seals to it.
    if !(key.starts_with('X') && key.len() <= TEXT_MAX && key.chars().all(|c| c.is_ascii_alphanumeric())) {
        return refuse(format!("curve_key: \"{}\" is not a public curve key (X…)", shown(key)));
    }
    let texts = [
        ("backend", &announce.backend),
        ("backend_version", &announce.backend_version),
        ("version", &announce.version),
    ];
    for (field, text) in texts {
        if text.chars().count() > TEXT_MAX || text.chars().any(|c| !(c == ' ' || c.is_ascii_graphic())) {
            return refuse(format!("{field}: \"{}\" is too long or not plain text", shown(text)));
        }
    }
    if announce.backend.is_empty() {
        return refuse("backend: it is empty".to_owned());
    }
    Ok(())
}

fn refuse(what: impl Into<String>) -> Result<(), Error> {
    Err(Error::Setting(what.into()))
}

/// Text from outside, so that it does no harm in a terminal or a log.
fn shown(text: &str) -> String {
    const SHOWN: usize = 40;
    text.chars().take(SHOWN).collect::<String>().escape_default().to_string()
}

#[cfg(test)]
mod tests;
