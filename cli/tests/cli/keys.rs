use serde_json::json;
use testkit::wait::eventually;

use crate::world::{SOON, World};

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_counted_and_replaced() {
    let World { vpn, .. } = &World::start().await;
    assert_eq!(vpn.json("keys status")["users"], 0);
    vpn.ok("users create alice");
    vpn.ok("servers create ss --protocol shadowsocks-2022");
    let before = vpn.ok("link alice ss");
    assert!(before.starts_with("ss://") && before.lines().count() == 1, "one link stands alone: {before}");
    let counted = async || (vpn.json("keys status")["servers"] == 1).then_some(());
    eventually("one server has keys", SOON, counted).await;
    assert!(vpn.ok("keys status").starts_with("users     1   have credentials\n"));

    assert_eq!(vpn.json("keys rotate alice"), json!({"user": "alice", "generation": 2}));
    assert_ne!(vpn.ok("link alice ss"), before);
    assert_eq!(vpn.refused("keys rotate nobody", 1), "keys.not_issued");
}
