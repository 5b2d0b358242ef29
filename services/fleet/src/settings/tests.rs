use contract::{
    ByteCount,
    fleet::{AddressSource, PublicAddress},
};
use proptest::prelude::*;

use super::*;

fn reality(names: &[&str]) -> Reality {
    Reality {
        dest: "www.example.org:443".parse().unwrap(),
        server_names: names.iter().map(ToString::to_string).collect(),
    }
}

fn refusal(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Setting(what) | Error::Announcement(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reality_is_for_vless_reality_and_only_there() {
    let resources = Resources::default();
    let good = reality(&["www.example.org"]);
    for protocol in Protocol::ALL {
        let with = check(protocol, Some(&good), &resources, &[]);
        let without = check(protocol, None, &resources, &[]);
        assert_eq!(with.is_ok(), protocol == Protocol::VlessReality);
        assert_ne!(with.is_ok(), without.is_ok());
    }
}

#[test]
fn server_names_are_host_names_and_few() {
    let check =
        |names: &[&str]| check(Protocol::VlessReality, Some(&reality(names)), &Resources::default(), &[]);
    for bad in ["", "a b", "*.example.org", "../x", "a\0", "\u{202e}evil", "-a.org", "a..b", "x:443"] {
        assert!(refusal(check(&["www.example.org", bad])).starts_with("reality.server_names"), "{bad:?}");
    }
    assert!(refusal(check(&[])).contains("at least one"));
    let many: Vec<String> = (0..=SERVER_NAMES_MAX).map(|n| format!("n{n}.example.org")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(check(&many[1..]).is_ok());
    assert!(refusal(check(&many)).contains("17"));
    let long = refusal(check(&["\u{202e}".repeat(10_000).as_str()]));
    assert!(long.is_ascii() && long.len() < 500, "what was sent is cut short and made harmless");
}

#[test]
fn resources_and_ranges_have_bounds() {
    let check = |memory, pids, ranges| {
        let resources = Resources { memory: ByteCount::clamped(memory), pids };
        let ranges = vec!["10.0.0.0/8".parse().unwrap(); ranges];
        check(Protocol::Wireguard, None, &resources, &ranges)
    };
    assert_eq!(check(MEMORY_MIN, PIDS_MIN, ALLOW_PRIVATE_MAX), Ok(()));
    assert!(refusal(check(MEMORY_MIN - 1, PIDS_MIN, 0)).starts_with("resources.memory"));
    assert!(refusal(check(MEMORY_MIN, PIDS_MIN - 1, 0)).starts_with("resources.pids"));
    assert!(refusal(check(MEMORY_MIN, PIDS_MIN, ALLOW_PRIVATE_MAX + 1)).starts_with("allow_private"));
}

fn announcement() -> Announce {
    Announce {
        node: "n1".parse().unwrap(),
        address: PublicAddress { host: "vpn.example.org".to_owned(), source: AddressSource::Given },
        curve_key: "XABCDEF234567".to_owned(),
        backend: "docker".to_owned(),
        backend_version: "20.10.24+dfsg1".to_owned(),
        cpus: 2,
        version: "0.1.0".to_owned(),
    }
}

#[test]
fn what_an_agent_says_can_go_into_links_and_tables() {
    assert_eq!(check_announced(&announcement()), Ok(()));
    for good in ["198.51.100.7", "2001:db8::1", "::1"] {
        let mut announce = announcement();
        announce.address.host = good.to_owned();
        assert_eq!(check_announced(&announce), Ok(()), "{good}");
    }
    for bad in ["", "a b", "x:443", "[2001:db8::1]", "x/../y", "a\n", "x#frag", "u@h"] {
        let mut announce = announcement();
        announce.address.host = bad.to_owned();
        assert!(refusal(check_announced(&announce)).starts_with("address.host"), "{bad:?}");
    }
    let long = "v".repeat(TEXT_MAX + 1);
    type Field = fn(&mut Announce) -> &mut String;
    let fields: [(&str, Field); 4] = [
        ("curve_key", |a| &mut a.curve_key),
        ("backend", |a| &mut a.backend),
        ("backend_version", |a| &mut a.backend_version),
        ("version", |a| &mut a.version),
    ];
    for (name, field) in fields {
        for bad in [long.as_str(), "a\x1b[31m", "\u{202e}x"] {
            let mut announce = announcement();
            *field(&mut announce) = bad.to_owned();
            assert!(refusal(check_announced(&announce)).starts_with(name), "{name}: {bad:?}");
        }
    }
}

proptest! {
    #[test]
    fn an_accepted_host_cannot_leave_its_place_in_a_link(host in ".{0,60}") {
        let mut announce = announcement();
        announce.address.host = host.clone();
        if check_announced(&announce).is_ok() {
            let harmless = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
            prop_assert!(host.chars().all(harmless), "{host:?}");
        }
    }
}
