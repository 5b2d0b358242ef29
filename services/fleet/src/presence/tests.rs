use contract::fleet::{AddressSource, PublicAddress};

use super::*;

const LOST_AFTER: Duration = Duration::from_secs(7);

fn announce(version: &str) -> Announce {
    Announce {
        node: "n1".parse().unwrap(),
        address: PublicAddress { host: "198.51.100.7".to_owned(), source: AddressSource::Detected },
        curve_key: "X".to_owned(),
        backend: "process".to_owned(),
        backend_version: String::new(),
        cpus: 2,
        version: version.to_owned(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_node_joins_changes_is_lost_and_returns_and_nothing_else_is_an_event() {
    let (node, event) = announced(None, &announce("1"), at(1)).unwrap();
    assert_eq!((event, node.joined_at), (NodeEvent::Joined, at(1)));
    assert_eq!(announced(Some(&node), &announce("1"), at(2)), None);

    let (node, event) = announced(Some(&node), &announce("2"), at(3)).unwrap();
    assert_eq!((event, node.joined_at, node.announced.version.as_str()), (NodeEvent::Changed, at(1), "2"));

    let (node, event) = lost(&node, at(4)).unwrap();
    assert_eq!((event, node.presence), (NodeEvent::Lost, Presence::Lost { since: at(4) }));
    assert_eq!(lost(&node, at(5)), None);

    let (node, event) = announced(Some(&node), &announce("3"), at(6)).unwrap();
    assert_eq!((event, node.presence, node.joined_at), (NodeEvent::Returned, Presence::Online, at(1)));
    assert_eq!(node.announced.version, "3");
}

#[test]
fn only_silence_that_could_have_been_broken_counts() {
    let (n1, n2) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    let start = Instant::now();
    let after = |millis| start + Duration::from_millis(millis);
    let heard = Heard::new(LOST_AFTER, start);
    heard.node(&n1, after(3_000));
    assert!(!heard.misses(&n2, after(6_999)), "one that was never heard has the time from the start on");
    assert!(heard.misses(&n2, after(7_000)));
    assert!(!heard.misses(&n1, after(9_999)));
    assert!(heard.misses(&n1, after(10_000)));

    heard.deaf_until(after(10_000));
    assert!(!heard.misses(&n1, after(16_999)) && !heard.misses(&n2, after(16_999)));
    assert!(heard.misses(&n1, after(17_000)) && heard.misses(&n2, after(17_000)));
}
