//! What a container is made like.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use contract::{NodeName, ServerName, fleet::ServerId};

use super::{RUN_DIR_INSIDE, Spec};
use crate::backend::{Rights, run_dir::Owner};

// Labels: how this node finds its own again.
pub(super) const NODE: &str = "vpn.node";
pub(super) const SERVER: &str = "vpn.server";
pub(super) const SERVER_ID: &str = "vpn.server-id";
pub(super) const REVISION: &str = "vpn.revision";
pub(super) const TRACEPARENT: &str = "vpn.traceparent";

/// A log of two files of 5 MB: days of an engine's warnings, and 100 MB for ten servers on a small disk.
const LOG_FILE_SIZE: &str = "5m";
const LOG_FILES: &str = "2";

/// The filter that finds this node's containers and events.
pub(super) fn only_of(node: &NodeName) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{NODE}={node}")])])
}

/// Who a container is, by its labels.
pub(super) fn identity(labels: &HashMap<String, String>) -> Option<(ServerName, ServerId, String)> {
    let server = labels.get(SERVER)?.parse().ok()?;
    let server_id = labels.get(SERVER_ID)?.parse().ok().map(ServerId)?;
    Some((server, server_id, labels.get(REVISION)?.clone()))
}

/// The body of the create call.
pub(super) fn body(node: &NodeName, spec: &Spec, owner: Owner) -> ContainerCreateBody {
    let ports: Vec<String> =
        spec.ports.iter().map(|(port, over)| format!("{port}/{}", over.as_str())).collect();
    ContainerCreateBody {
        image: Some(spec.image.to_string()),
        cmd: Some(spec.args.clone()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user: Some(format!("{}:{}", owner.uid, owner.gid)),
        labels: Some(labels(node, spec)),
        exposed_ports: Some(ports),
        // Whatever the image says: `stop` promises SIGTERM.
        stop_signal: Some("SIGTERM".to_owned()),
        host_config: Some(host_config(spec)),
        ..Default::default()
    }
}

fn labels(node: &NodeName, spec: &Spec) -> HashMap<String, String> {
    let mut labels = HashMap::from([
        (NODE.to_owned(), node.to_string()),
        (SERVER.to_owned(), spec.server.to_string()),
        (SERVER_ID.to_owned(), spec.server_id.0.to_string()),
        (REVISION.to_owned(), spec.revision.clone()),
    ]);
    if let Some(traceparent) = &spec.traceparent {
        labels.insert(TRACEPARENT.to_owned(), traceparent.clone());
    }
    labels
}

fn host_config(spec: &Spec) -> HostConfig {
    let memory = i64::try_from(spec.memory).unwrap_or(i64::MAX);
    HostConfig {
        mounts: Some(vec![Mount {
            typ: Some(MountType::BIND),
            source: Some(spec.run_dir.to_string_lossy().into_owned()),
            target: Some(RUN_DIR_INSIDE.to_owned()),
            ..Default::default()
        }]),
        port_bindings: Some(
            spec.ports
                .iter()
                .map(|(port, over)| {
                    // Without an address it is 0.0.0.0, and [::] too where the host has IPv6; with [::] named, a
                    // host without IPv6 would refuse to start the container.
                    let binding = PortBinding { host_ip: None, host_port: Some(port.to_string()) };
                    (format!("{port}/{}", over.as_str()), Some(vec![binding]))
                })
                .collect(),
        ),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: match spec.rights {
            Rights::None => None,
            Rights::Network => Some(vec!["NET_ADMIN".to_owned()]),
        },
        devices: match spec.rights {
            Rights::None => None,
            Rights::Network => Some(vec![DeviceMapping {
                path_on_host: Some("/dev/net/tun".to_owned()),
                path_in_container: Some("/dev/net/tun".to_owned()),
                cgroup_permissions: Some("rw".to_owned()),
            }]),
        },
        sysctls: match spec.rights {
            Rights::None => None,
            Rights::Network => Some(forwarding(std::path::Path::new("/proc/sys/net/ipv6").exists())),
        },
        security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
        memory: Some(memory),
        // Together with swap: as much as without, so none.
        memory_swap: Some(memory),
        pids_limit: Some(i64::from(spec.pids)),
        // An engine's memory holds keys; it must not end in a file.
        ulimits: Some(vec![ResourcesUlimits { name: Some("core".to_owned()), soft: Some(0), hard: Some(0) }]),
        log_config: Some(HostConfigLogConfig {
            // Not `local`: collectors read these files, and the daemon's default has no bounds.
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), LOG_FILE_SIZE.to_owned()),
                ("max-file".to_owned(), LOG_FILES.to_owned()),
            ])),
        }),
        // The agent restarts, not the daemon: before an engine starts, the socket of its last run must be out
        // of the way (it would refuse to start, again and again), and its files must hold today's users. A
        // daemon that restarts containers by itself after a reboot would let in whoever was deleted since the
        // files were written, and bring back servers that are gone. The agent needs neither the bus nor a
        // person to bring all of it up: it keeps what is desired on disk, and is itself restarted by what
        // supervises services on the host.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..Default::default()
    }
}

/// The settings of the container's own network that routing between a tunnel and the world needs. They are the
/// daemon's to write: `/proc/sys` is read-only inside.
fn forwarding(ipv6: bool) -> HashMap<String, String> {
    let mut sysctls = HashMap::from([("net.ipv4.ip_forward".to_owned(), "1".to_owned())]);
    if ipv6 {
        // Docker switches IPv6 off in networks that it gives no IPv6 addresses; tunnels have their own.
        sysctls.insert("net.ipv6.conf.all.disable_ipv6".to_owned(), "0".to_owned());
        sysctls.insert("net.ipv6.conf.all.forwarding".to_owned(), "1".to_owned());
    }
    sysctls
}
