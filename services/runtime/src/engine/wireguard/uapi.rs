//! The agent's end of the control socket: WireGuard's cross-platform protocol
//! (<https://www.wireguard.com/xplatform/#configuration-protocol>).
//!
//! Texts that hold keys are wiped, and no error says what was in them.

use std::{collections::HashMap, fmt::Write as _, io, net::IpAddr, path::Path, time::Duration};

use contract::usage::Traffic;
use ipnet::IpNet;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};
use zeroize::{Zeroize as _, Zeroizing};

/// For one command and its answer. Ten thousand peers are read in less than a tenth of that.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) type Key = [u8; 32];

/// A peer as it should be.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) public_key: Key,
    pub(super) preshared_key: Zeroizing<Key>,
    pub(super) addresses: [IpAddr; 2],
}

/// What the device has.
#[derive(Default)]
pub(super) struct Configuration {
    pub(super) private_key: Option<Zeroizing<Key>>,
    peers: HashMap<Key, Found>,
}

#[derive(Default)]
struct Found {
    preshared_key: Option<Zeroizing<Key>>,
    allowed: Vec<IpNet>,
}

impl Configuration {
    /// Whether the peer is there, exactly so.
    pub(super) fn has(&self, peer: &Peer) -> bool {
        self.peers.get(&peer.public_key).is_some_and(|found| {
            found.preshared_key.as_ref() == Some(&peer.preshared_key)
                && found.allowed.len() == peer.addresses.len()
                && peer.addresses.iter().all(|address| found.allowed.contains(&IpNet::from(*address)))
        })
    }

    pub(super) fn public_keys(&self) -> impl Iterator<Item = &Key> {
        self.peers.keys()
    }

    fn read(&mut self, last: &mut Option<Key>, name: &str, value: &str) -> Option<()> {
        match name {
            "private_key" => self.private_key = Some(Zeroizing::new(key(value)?)),
            "public_key" => {
                *last = Some(key(value)?);
                self.peers.insert((*last)?, Found::default());
            }
            "preshared_key" => {
                let preshared_key = Zeroizing::new(key(value)?);
                // All zeros stand for none.
                let given = preshared_key.iter().any(|byte| *byte != 0);
                self.peers.get_mut(&(*last)?)?.preshared_key = given.then_some(preshared_key);
            }
            "allowed_ip" => self.peers.get_mut(&(*last)?)?.allowed.push(value.parse().ok()?),
            // Counters, times and whatever a later version has to say.
            _ => {}
        }
        Some(())
    }
}

/// A change of the device, as text.
pub(super) struct Change(Zeroizing<String>);

impl Change {
    pub(super) fn nothing() -> Self {
        Self(Zeroizing::new("set=1\n".to_owned()))
    }

    pub(super) fn private_key(mut self, private_key: &Key) -> Self {
        self.line("private_key", private_key);
        self
    }

    /// A peer that is there already loses its session, its other addresses and its other preshared key.
    pub(super) fn add(mut self, peer: &Peer) -> Self {
        self.line("public_key", &peer.public_key);
        self.line("preshared_key", &peer.preshared_key);
        self.0.push_str("replace_allowed_ips=true\n");
        for address in peer.addresses {
            // Writing to a string can't fail.
            let _ = writeln!(self.0, "allowed_ip={}", IpNet::from(address));
        }
        self
    }

    pub(super) fn remove(mut self, public_key: &Key) -> Self {
        self.line("public_key", public_key);
        self.0.push_str("remove=true\n");
        self
    }

    fn line(&mut self, name: &str, key: &Key) {
        // Grown in steps, a string would leave copies of keys behind.
        self.0.reserve(name.len() + 2 * key.len() + 2);
        self.0.push_str(name);
        self.0.push('=');
        for byte in key {
            let _ = write!(self.0, "{byte:02x}");
        }
        self.0.push('\n');
    }
}

/// A command that is not in the protocol: the counters alone, without the keys of ten thousand peers around them.
pub(super) const TRAFFIC: &str = "traffic=1\n";

/// A connection to the control socket.
pub(super) struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    pub(super) async fn connect(socket: &Path) -> io::Result<Self> {
        let stream = timeout(PATIENCE, UnixStream::connect(socket)).await??;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Makes a change, whole.
    pub(super) async fn set(&mut self, change: Change) -> io::Result<()> {
        timeout(PATIENCE, self.exchange(change.0, |_, _| Some(()))).await?
    }

    /// Reads what the device has.
    pub(super) async fn get(&mut self) -> io::Result<Configuration> {
        let mut configuration = Configuration::default();
        let mut last = None;
        let command = Zeroizing::new("get=1\n".to_owned());
        let read = |name: &str, value: &str| configuration.read(&mut last, name, value);
        timeout(PATIENCE, self.exchange(command, read)).await??;
        Ok(configuration)
    }

    /// Reads what came from each peer and went to it, of those that ever said anything.
    pub(super) async fn traffic(&mut self) -> io::Result<HashMap<Key, Traffic>> {
        let mut found = HashMap::new();
        let mut last = None;
        let read = |name: &str, value: &str| {
            match name {
                "public_key" => last = Some(key(value)?),
                "rx_bytes" => found.entry(last?).or_insert(Traffic::NONE).up = value.parse().ok()?,
                "tx_bytes" => found.entry(last?).or_insert(Traffic::NONE).down = value.parse().ok()?,
                _ => {}
            }
            Some(())
        };
        timeout(PATIENCE, self.exchange(Zeroizing::new(TRAFFIC.to_owned()), read)).await??;
        Ok(found)
    }

    async fn exchange(
        &mut self,
        mut command: Zeroizing<String>,
        mut read: impl FnMut(&str, &str) -> Option<()>,
    ) -> io::Result<()> {
        command.push('\n');
        self.stream.write_all(command.as_bytes()).await?;
        let mut line = Zeroizing::new(String::new());
        let mut errno = None;
        loop {
            line.zeroize();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once('=') {
                Some(("errno", number)) => errno = number.parse().ok(),
                Some((name, value)) => read(name, value).ok_or(io::ErrorKind::InvalidData)?,
                None if line.as_str() == "\n" => break,
                None => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        match errno {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn key(hex: &str) -> Option<Key> {
    let mut key = [0; 32];
    if hex.len() != 2 * key.len() {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

/// The longest path of a unix socket, without the zero behind it.
const LONGEST_PATH: usize = 107;

/// Whether the kernel takes the path: `sun_path` has 108 bytes.
pub(super) fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= LONGEST_PATH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> Peer {
        Peer {
            public_key: [number; 32],
            preshared_key: Zeroizing::new([number + 1; 32]),
            addresses: [[10, 64, 0, number].into(), [0xfd76, 0x706e, 0, 0, 0, 0, 0, number.into()].into()],
        }
    }

    #[test]
    fn a_change_is_what_the_protocol_says() {
        let change = Change::nothing().private_key(&[0xab; 32]).remove(&[2; 32]).add(&peer(3));
        let expected = format!(
            "set=1\nprivate_key={}\npublic_key={}\nremove=true\npublic_key={}\npreshared_key={}\n\
             replace_allowed_ips=true\nallowed_ip=10.64.0.3/32\nallowed_ip=fd76:706e::3/128\n",
            "ab".repeat(32),
            "02".repeat(32),
            "03".repeat(32),
            "04".repeat(32)
        );
        assert_eq!(*change.0, expected);
    }

    #[test]
    fn what_the_device_says_is_compared_in_all_parts() {
        let there = peer(3);
        let text = format!(
            "private_key={}\nlisten_port=51820\npublic_key={}\npreshared_key={}\nrx_bytes=7\n\
             allowed_ip=fd76:706e::3/128\nallowed_ip=10.64.0.3/32\npublic_key={}\n",
            "0a".repeat(32),
            "03".repeat(32),
            "04".repeat(32),
            "05".repeat(32)
        );
        let mut configuration = Configuration::default();
        let mut last = None;
        for line in text.lines() {
            let (name, value) = line.split_once('=').unwrap();
            configuration.read(&mut last, name, value).unwrap();
        }
        assert_eq!(configuration.private_key.as_deref(), Some(&[0x0a; 32]));
        assert_eq!(configuration.public_keys().count(), 2);
        assert!(configuration.has(&there));
        let other_key = Peer { preshared_key: Zeroizing::new([9; 32]), ..there.clone() };
        let other_address = Peer { addresses: peer(4).addresses, ..there };
        for other in [other_key, other_address, peer(5), peer(6)] {
            assert!(!configuration.has(&other));
        }
    }

    #[test]
    fn bad_keys_are_refused() {
        for bad in ["", "00", &"0".repeat(63), &"g0".repeat(32), &"ü".repeat(32)] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }
}
