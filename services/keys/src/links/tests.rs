use std::collections::BTreeMap;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::{ServerName, UserName};
use proptest::{array::uniform, prelude::*};
use testkit::xray_client::{Link, link::Protocol};

use super::*;

fn hosts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,10}(-[a-z0-9]{1,5})?\\.[a-z]{2,5}",
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<Ipv6Addr>().prop_map(|address| address.to_string()),
        any::<Ipv6Addr>().prop_map(|address| format!("[{address}]")),
    ]
}

prop_compose! {
    /// Whatever names the contract lets through, and each place that a node can be at.
    fn endpoints()(user in "[a-z0-9][a-z0-9_-]{0,63}", server in "[a-z0-9][a-z0-9_-]{0,63}", host in hosts(), port in 1..=u16::MAX)
        -> (String, String, Port) {
        let user: UserName = user.parse().unwrap();
        let server: ServerName = server.parse().unwrap();
        (format!("{user}@{server}"), host, Port::try_from(u64::from(port)).unwrap())
    }
}

/// Without brackets, and of the ways to write an IPv6 address one.
fn bare(host: &str) -> String {
    let host = host.trim_matches(['[', ']']);
    host.parse::<Ipv6Addr>().map_or(host.to_owned(), |address| format!("{:x?}", address.segments()))
}

/// What stands in a WireGuard file, by name; nothing stands twice.
fn read(file: &str) -> BTreeMap<&str, &str> {
    let mut values = BTreeMap::new();
    for (name, value) in file.lines().filter_map(|line| line.split_once(" = ")) {
        assert_eq!(values.insert(name, value), None, "{name} stands twice");
    }
    values
}

proptest! {
    #[test]
    fn vless_links_say_what_they_are_made_of(
        (label, host, port) in endpoints(),
        uuid in uniform::<_, 16>(any::<u8>()),
        key in uniform::<_, 32>(any::<u8>()),
        short_id in uniform::<_, 8>(any::<u8>()),
        sni in "[a-z]{1,9}(\\.[a-z]{1,9}){1,3}",
    ) {
        let to = Endpoint { label: &label, host: &host, port };
        let hex: String = short_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let link = vless(&to, &uuid, &sni, &URL_SAFE_NO_PAD.encode(key), &hex);
        let read = Link::parse(&link).unwrap();
        prop_assert_eq!((bare(&read.host), read.port, read.label), (bare(&host), port.get(), label));
        prop_assert_eq!(read.protocol, Protocol::Vless {
            id: uuid::Uuid::from_bytes(uuid),
            flow: "xtls-rprx-vision".to_owned(),
            sni,
            fingerprint: "chrome".to_owned(),
            public_key: key,
            short_id: short_id.to_vec(),
            spider_x: "/".to_owned(),
        });
    }

    #[test]
    fn shadowsocks_links_say_what_they_are_made_of(
        (label, host, port) in endpoints(),
        server in uniform::<_, 16>(any::<u8>()),
        user in uniform::<_, 16>(any::<u8>()),
    ) {
        let link = shadowsocks(&Endpoint { label: &label, host: &host, port }, &server, &user);
        let read = Link::parse(&link).unwrap();
        prop_assert_eq!((bare(&read.host), read.port, read.label), (bare(&host), port.get(), label));
        prop_assert_eq!(read.protocol, Protocol::Shadowsocks {
            method: "2022-blake3-aes-128-gcm".to_owned(),
            password: format!("{}:{}", STANDARD.encode(server), STANDARD.encode(user)),
        });
    }

    #[test]
    fn wireguard_files_say_what_they_are_made_of(
        (label, host, port) in endpoints(),
        private in uniform::<_, 32>(any::<u8>()),
        preshared in uniform::<_, 32>(any::<u8>()),
        place in WireguardAddress::FIRST..=WireguardAddress::LAST,
    ) {
        let address = WireguardAddress::new(place).unwrap();
        let to = Endpoint { label: &label, host: &host, port };
        let server_key = STANDARD.encode([7; 32]);
        let resolvers = ["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()];
        let file = wireguard(&to, &private, address, &server_key, &preshared, &resolvers);
        let values = read(&file);
        prop_assert_eq!(values["PrivateKey"], STANDARD.encode(private));
        prop_assert_eq!(values["PublicKey"], server_key);
        prop_assert_eq!(values["PresharedKey"], STANDARD.encode(preshared));
        prop_assert_eq!(values["Address"], format!("{}/32, {}/128", address.v4(), address.v6()));
        prop_assert_eq!(values["DNS"], "9.9.9.9, 2620:fe::fe");
        prop_assert_eq!(values["AllowedIPs"], "0.0.0.0/0, ::/0");
        let endpoint: contract::HostPort = values["Endpoint"].parse().unwrap();
        prop_assert_eq!((bare(endpoint.host()), endpoint.port()), (bare(&host), port));
        let sections: Vec<_> = file.lines().filter(|line| line.starts_with('[')).collect();
        prop_assert_eq!(sections, ["[Interface]", "[Peer]"]);
    }
}

#[test]
fn without_resolvers_a_file_names_none() {
    let to = Endpoint { label: "a@b", host: "vpn.example.org", port: Port::try_from(51820).unwrap() };
    let address = WireguardAddress::new(2).unwrap();
    let file = wireguard(&to, &[1; 32], address, "k", &[2; 32], &[]);
    assert!(!file.contains("DNS"), "{file}");
}
