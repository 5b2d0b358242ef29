use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_from_its_beginning_to_its_end() {
    let World { vpn, .. } = &World::start().await;
    assert_eq!(vpn.ok("servers list"), "no servers: vpn servers create NAME --protocol PROTOCOL\n");
    let created = vpn.ok("servers create wg --protocol wireguard --allow-private 10.0.0.0/8 --memory 64MiB");
    assert_eq!(created, "wg   wireguard   one:51820   starting\n");
    // There is nobody to ask about the dest, which is something to mind and no refusal.
    let ran = vpn.run("servers create r --protocol vless-reality --dest example.org:443".split(' '));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.starts_with("warning: ") && ran.err.contains("example.org:443"), "{ran:?}");
    let shown = vpn.json("servers get r");
    assert_eq!(shown["reality"]["server_names"], json!(["example.org"]));
    assert_eq!((&shown["port"], &shown["node"]), (&json!(443), &json!("one")));

    assert_eq!(vpn.refused("servers create wg2 --protocol wireguard", 1), "fleet.port_taken");
    assert_eq!(
        vpn.refused("servers create ss --protocol shadowsocks-2022 --node two", 1),
        "fleet.node_not_found"
    );
    assert_eq!(vpn.refused("servers create x --protocol vless-reality", 1), "fleet.setting_invalid");
    assert_eq!(vpn.refused("servers create x --protocol openvpn", 2), "fleet.setting_invalid");
    assert_eq!(vpn.refused("servers create x --protocol wireguard --port 99999", 2), "fleet.port_invalid");

    let updated = vpn.json("servers update r --port 8443 --server-name www.example.org --pids 99");
    assert_eq!((&updated["port"], &updated["resources"]["pids"]), (&json!(8443), &json!(99)));
    let reality = json!({"dest": "example.org:443", "server_names": ["www.example.org"]});
    assert_eq!(updated["reality"], reality, "the dest stays");
    let updated = vpn.json("servers update wg --no-allow-private");
    assert!(updated.get("allow_private").is_none(), "{updated}");
    assert_eq!(updated["resources"]["memory"], 64 << 20);

    assert_eq!(vpn.json("servers stop wg")["running"], false);
    let table = vpn.ok("servers list");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "NAME   PROTOCOL        NODE   PORT    STATE      SINCE");
    assert_eq!(
        (lines[1], lines[2]),
        ("r      vless-reality   one    8443    starting", "wg     wireguard       one    51820   stopped")
    );
    assert!(vpn.ok("servers list --node one -o yaml").contains("- name: r\n"));
    assert_eq!(vpn.json("servers start wg")["running"], true);
    assert_eq!(vpn.json("servers restart wg")["restarts"], 1);

    let ran = vpn.run(["servers", "delete", "wg"]);
    assert_eq!(
        (ran.code, ran.error_code().as_str()),
        (Some(2), "cli.usage"),
        "a script cannot be asked: {ran:?}"
    );
    assert_eq!(vpn.ok("servers delete wg --yes"), "wg   deleted\n");
    assert_eq!(vpn.refused("servers show wg", 1), "fleet.server_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_and_asked() {
    let World { vpn, .. } = &World::start().await;
    let table = vpn.ok("nodes list");
    assert!(
        table.contains("\none    online   192.168.1.7 (detected)   process 1   2      0.1.0     20"),
        "{table}"
    );
    assert_eq!(vpn.json("nodes show one")["presence"]["is"], "online");
    assert_eq!(vpn.refused("nodes get two", 1), "fleet.node_not_found");
    assert_eq!(vpn.refused("nodes inspect two", 1), "fleet.node_not_found");
    let ran = vpn.run(["nodes", "inspect", "one"]);
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(69), "bus.no_responders"), "{ran:?}");
    assert!(ran.err.contains("node one does not answer"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_its_cure() {
    let World { vpn, .. } = &World::start().await;
    let status = vpn.run(["status"]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.out.contains("\nusers     up     "), "{status:?}");
    assert!(
        status.out.contains("\nruntime   down            bus.no_responders: nobody serves"),
        "{status:?}"
    );

    vpn.ok("servers create wg --protocol wireguard");
    let doctor = vpn.run(["doctor", "-o", "json"]);
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    let findings: Vec<serde_json::Value> = serde_json::from_str(&doctor.out).unwrap();
    let verdict = |name: &str| {
        let found =
            findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("{name}"));
        found["verdict"].as_str().unwrap().to_owned()
    };
    for (name, expected) in [
        ("bus", "ok"),
        ("jetstream", "ok"),
        ("clock", "ok"),
        ("users", "ok"),
        ("keys", "ok"),
        ("fleet", "ok"),
        ("runtime", "fail"),
    ] {
        assert_eq!(verdict(name), expected, "{name}: {findings:#?}");
    }
    for finding in findings.iter().filter(|finding| finding["verdict"] != "ok") {
        assert!(finding["cure"].as_str().is_some_and(|cure| !cure.is_empty()), "no cure: {finding}");
    }
    let of_node: Vec<_> = findings.iter().filter(|finding| finding["name"] == "node one").collect();
    assert!(
        of_node.iter().any(|finding| finding["verdict"] == "warn"),
        "a private address in links: {findings:#?}"
    );
    assert!(
        of_node.iter().any(|finding| finding["verdict"] == "fail"),
        "nobody answers for it: {findings:#?}"
    );
}
