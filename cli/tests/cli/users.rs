use std::fmt::Write;

use serde_json::{Value, json};

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_account_from_its_beginning_to_its_end() {
    let World { vpn, .. } = &World::start().await;
    let created = vpn.run(
        "users create alice --quota 50GB --every month --expires 90d --tag family --note first".split(' '),
    );
    assert_eq!(created.code, Some(0), "{created:?}");
    assert!(created.out.starts_with("alice   active   50 GB/month   until 20"), "{created:?}");
    assert!(created.err.starts_with("next: vpn link alice --qr        trace "), "{created:?}");

    let alice = vpn.json("users show alice");
    assert_eq!(alice["quota"], 50_000_000_000_u64);
    assert_eq!(
        (&alice["quota_reset"], &alice["tags"], &alice["note"]),
        (&json!("month"), &json!(["family"]), &json!("first"))
    );
    let shown = vpn.ok("users get alice");
    assert!(shown.contains("quota     50 GB/month\n") && shown.contains("tags      family\n"), "{shown}");

    let changed =
        vpn.json("users update alice --quota 1GiB --every never --no-expires --no-tags --note second");
    assert_eq!(changed["quota"], 1 << 30);
    assert!(changed.get("expires_at").is_none() && changed.get("tags").is_none(), "{changed}");
    assert_eq!(vpn.json("users update alice --no-quota")["note"], "second", "what is not named stays");

    let suspended = vpn.json("users suspend alice --reason unpaid");
    assert_eq!(
        (&suspended["state"]["is"], &suspended["state"]["reason"]),
        (&json!("suspended"), &json!("unpaid"))
    );
    assert_eq!(vpn.refused("users suspend nobody", 1), "users.not_found");
    assert!(vpn.ok("users resume alice").starts_with("alice   active"));
    assert_eq!(vpn.ok("users delete alice"), "alice   deleted\n");
    assert_eq!(vpn.refused("users show alice", 1), "users.not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_sorted_and_go_over_pages() {
    let World { vpn, .. } = &World::start().await;
    assert_eq!(vpn.ok("users list"), "no users: vpn users create NAME\n");
    let names: String = (0..2_100).fold(String::new(), |mut text, number| {
        writeln!(text, "u{number:04}").unwrap();
        text
    });
    let ran = vpn.run_with(["users", "create-many", "-"], &names);
    assert!(ran.out.starts_with("2100 users   batch "), "{ran:?}");
    assert!(ran.err.contains("if this is interrupted: vpn users import - --batch "), "{ran:?}");

    let all = vpn.json("users list");
    assert_eq!(all.as_array().unwrap().len(), 2_100);
    assert_eq!((&all[0]["name"], &all[2_099]["name"]), (&json!("u0000"), &json!("u2099")));
    let last = vpn.json("users list --descending --limit 1500");
    assert_eq!((last.as_array().unwrap().len(), &last[1_499]["name"]), (1_500, &json!("u0600")));
    let table = vpn.ok("users list --search u209 --limit 3");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "NAME    STATE    QUOTA       EXPIRES   TAGS");
    assert_eq!((lines[1], lines[4]), ("u2090   active   unlimited", "3 of 10 users"));

    vpn.ok("users suspend u0007");
    vpn.ok("users update u0008 --expires 2030-01-31 --tag late");
    assert_eq!(vpn.json("users list --state suspended")[0]["name"], "u0007");
    assert_eq!(vpn.json("users list --sort expires --limit 1")[0]["name"], "u0008");
    let yaml = vpn.ok("users list --tag late -o yaml");
    let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml[0]["expires_at"], "2030-01-31T00:00:00Z");
    assert_eq!(yaml, vpn.json("users list --tag late"), "both say the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_where_it_stopped() {
    let World { vpn, .. } = &World::start().await;
    let people = vpn.file("people.csv", "name,quota,tags\nalice,50GB,a b\nbob,,\n");
    let line = format!("users import {}", people.display());
    let first = vpn.json(&line);
    assert_eq!(first["created"], 2);
    assert_eq!(vpn.json("users show alice")["tags"], json!(["a", "b"]));

    assert_eq!(vpn.refused(&line, 1), "users.name_taken", "another import has no claim to them");
    vpn.file("people.csv", "name,quota,tags\nalice,50GB,a b\nbob,,\ncarol,,\n");
    let again = vpn.json(&format!("{line} --batch {}", first["batch"].as_str().unwrap()));
    assert_eq!((&again["created"], &again["batch"]), (&json!(3), &first["batch"]));
    assert_eq!(vpn.json("users list").as_array().unwrap().len(), 3);

    vpn.file("people.csv", "name\ndave\n../etc\n");
    let ran = vpn.run(line.split(' '));
    assert_eq!((ran.code, ran.error_code().as_str()), (Some(1), "users.name_invalid"), "{ran:?}");
    assert!(ran.err.contains("people.csv, line 3: "), "{ran:?}");
    assert_eq!(
        vpn.refused("users show dave", 1),
        "users.not_found",
        "nothing is sent before all of it is read"
    );
    assert_eq!(vpn.refused("users import missing.csv", 1), "cli.file");
}
