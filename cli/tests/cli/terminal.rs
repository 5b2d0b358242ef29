use std::process::Command;

use testkit::programs::program;

use crate::world::{Vpn, World};

/// What a person sees: `script` gives the command a terminal of its own.
fn seen(vpn: &Vpn, line: &str, env: &[(&str, &str)]) -> String {
    let inner = vpn.command();
    let mut command = Command::new(program("script"));
    command.args(["-qec", &format!("{} {line}", env!("CARGO_BIN_EXE_vpn")), "/dev/null"]);
    command.env_clear().current_dir(vpn.home());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("SHELL", "/bin/sh");
    command.envs(env.iter().copied());
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_and_words_for_people_only() {
    let World { vpn, .. } = &World::start().await;
    vpn.ok("users create alice --expires 90d");
    let coloured = seen(vpn, "users list", &[]);
    assert!(coloured.contains("\u{1b}[32mactive\u{1b}[0m") && coloured.contains("in 90 days"), "{coloured}");
    let plain = seen(vpn, "users list", &[("NO_COLOR", "1")]);
    assert!(!plain.contains('\u{1b}') && plain.contains("in 90 days"), "{plain}");
    let file = vpn.ok("users list");
    assert!(file.contains("T") && !file.contains("days"), "times are exact where nobody watches: {file}");
    assert!(!seen(vpn, "users list -o json", &[]).contains('\u{1b}'));
    assert!(seen(vpn, "users create alice", &[]).contains("\u{1b}[1;31merror[users.name_taken]\u{1b}[0m: "));
    vpn.ok("servers create ss --protocol shadowsocks-2022");
    assert!(
        seen(vpn, "link alice --qr", &[]).contains("\u{1b}[30;107m"),
        "black on white, whatever the terminal is"
    );
    let refused = seen(vpn, "servers delete ss </dev/null", &[]);
    assert!(refused.contains("nobody said yes"), "{refused}");
}
