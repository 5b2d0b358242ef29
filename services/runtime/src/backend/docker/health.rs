//! What `vpn doctor` should know about the daemon.

use contract::runtime::Check;

use super::{ContainerRuntime as _, Docker, run_dir};

pub(super) async fn checks(docker: &Docker) -> Vec<Check> {
    let check = |name: &str, ok, detail: String| Check { name: name.to_owned(), ok, detail };
    let version = match docker.version().await {
        Ok(version) => format!("{version} answers on {}", docker.settings.socket.display()),
        Err(error) => return vec![check("docker", false, error.to_string())],
    };
    let look = docker.settings.deadlines.look;
    let info = match docker.client.call("info", look, async |docker| docker.info().await).await {
        Ok(info) => info,
        Err(error) => {
            return vec![check("docker", true, version), check("docker info", false, error.to_string())];
        }
    };
    let limited =
        |what: Option<bool>| if what == Some(true) { "limited" } else { "NOT limited by this kernel" };
    let remapped = info.security_options.unwrap_or_default();
    let remapped = remapped.iter().any(|option| option.contains("userns") || option.contains("rootless"));
    let ours = run_dir::ourselves();
    let tun = std::path::Path::new("/dev/net/tun").exists();
    vec![
        check("docker", true, version),
        check(
            "docker limits",
            info.memory_limit == Some(true) && info.pids_limit == Some(true),
            format!("memory {}, processes {}", limited(info.memory_limit), limited(info.pids_limit)),
        ),
        check(
            "docker users",
            !remapped,
            if remapped {
                "the daemon maps users (rootless or userns-remap): containers cannot open the run directories that \
                 the agent shares with them; use a daemon without, or the process backend"
                    .to_owned()
            } else if ours.uid == 0 {
                format!("containers run as uid {}", super::super::CONTAINER_UID)
            } else {
                format!("the agent is not root, so containers run as its own uid {}", ours.uid)
            },
        ),
        check(
            "docker networks",
            tun && ours.uid == 0,
            match (tun, ours.uid) {
                (true, 0) => "WireGuard can run: /dev/net/tun is there and the agent is root".to_owned(),
                (false, _) => "no /dev/net/tun, so no WireGuard: `modprobe tun`".to_owned(),
                (true, _) => "the agent is not root, so no WireGuard".to_owned(),
            },
        ),
    ]
}
