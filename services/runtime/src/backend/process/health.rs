//! What `vpn doctor` should know about child processes: above all what they are not bound by.

use contract::runtime::Check;

use super::Inner;

pub(super) fn checks(inner: &Inner) -> Vec<Check> {
    let check = |name: &str, ok: bool, good: &str, bad: &str| Check {
        name: name.to_owned(),
        ok,
        detail: if ok { good } else { bad }.to_owned(),
    };
    let powers = inner.powers;
    vec![
        check(
            "process users",
            powers.switch_user() && powers.bound(),
            "engines run as an unprivileged user of their own, without capabilities they do not need",
            "the agent is not root: engines run as the agent's own user, and could read its files",
        ),
        check(
            "process memory",
            inner.cgroups.limits_memory(),
            "limited by cgroups",
            "NOT limited: no memory cgroup can be made here; engines are only told to keep within their limit \
             (GOMEMLIMIT). Run the agent as root, or with a delegated cgroup",
        ),
        check(
            "process pids",
            inner.cgroups.limits_pids(),
            "limited by cgroups",
            "NOT limited: no pids cgroup can be made here. Run the agent as root, or with a delegated cgroup",
        ),
        check(
            "process ports",
            powers.any_port(),
            "servers may listen on any port",
            &format!(
                "servers may listen from port {} on; below, the agent needs CAP_NET_BIND_SERVICE",
                powers.first_free_port
            ),
        ),
        check(
            "process networks",
            powers.networks(),
            "WireGuard can run, in the host's own network",
            "the agent is not root with CAP_NET_ADMIN, so no WireGuard",
        ),
        check(
            "process isolation",
            false,
            "",
            "child processes see the host's file system and network; a container daemon gives them their own",
        ),
    ]
}
