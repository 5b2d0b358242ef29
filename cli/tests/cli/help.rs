use contract::error::CATALOGUE;
use serde_json::Value;

use crate::world::Vpn;

fn vpn() -> Vpn {
    // What needs no bus asks for none.
    Vpn::new("nats://127.0.0.1:1")
}

#[test]
fn every_command_says_what_it_is_for() {
    let vpn = vpn();
    let help = vpn.ok("--help");
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    let mut seen = 0;
    let commands = |help: &str| -> Vec<String> {
        let listed = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
        let listed = listed.split("\n\n").next().unwrap_or_default();
        let names = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    };
    for command in commands(&help) {
        let of = vpn.ok(&format!("{command} --help"));
        let verbs = commands(&of);
        seen += verbs.len().max(1);
        for verb in verbs.iter().filter(|verb| *verb != "help") {
            vpn.ok(&format!("{command} {verb} --help"));
        }
    }
    assert!(seen > 25, "{seen}");
    let ran = vpn.run(Vec::<String>::new());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("Usage: vpn"), "{ran:?}");
    assert!(vpn.ok("--version").starts_with("vpn 0."));
}

#[test]
fn errors_are_explained() {
    let vpn = vpn();
    let text = vpn.ok("explain users.name_taken");
    assert!(text.starts_with("users.name_taken: There is a user"), "{text}");
    assert!(text.contains("status 409 on the bus, exit code 1"), "{text}");
    let all: Vec<Value> = serde_json::from_str(&vpn.ok("explain -o json")).unwrap();
    assert_eq!(all.len(), CATALOGUE.len());
    for (code, exit) in [
        ("bus.timeout", 75),
        ("bus.unreachable", 69),
        ("bus.not_allowed", 77),
        ("cli.usage", 2),
        ("users.not_found", 1),
    ] {
        assert_eq!(vpn.json(&format!("explain {code}"))["exit_code"], exit, "{code}");
    }
    let ran = vpn.run(["explain", "name_taken"]);
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(1), "cli.unknown_code"), "{ran:?}");
    assert!(ran.err.contains("help: perhaps users.name_taken"), "{ran:?}");
}

#[test]
fn the_page_of_errors_is_the_catalogue() {
    let path = testkit::programs::workspace().join("docs/errors.md");
    let page = std::fs::read_to_string(path).unwrap();
    assert!(
        page == vpn().ok("explain --markdown"),
        "docs/errors.md is not the catalogue: cargo run -p vpn -- explain --markdown > docs/errors.md"
    );
    for entry in CATALOGUE {
        assert!(page.contains(&format!("\n### {}\n\n{}", entry.code, entry.title)), "{}", entry.code);
    }
}

#[test]
fn shells_complete() {
    let vpn = vpn();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = vpn.ok(&format!("completions {shell}"));
        assert!(script.contains("suspend") && script.contains("allow-private"), "{shell}: {script}");
    }
    let script = vpn.file("vpn.bash", &vpn.ok("completions bash"));
    let asked = format!(
        "source {}; COMP_WORDS=(vpn users su); COMP_CWORD=2; _vpn vpn su users; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let bash = std::process::Command::new("bash").args(["--norc", "-c", &asked]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "suspend", "{bash:?}");
    assert_eq!(vpn.refused("completions tcsh", 2), "cli.usage");
}
