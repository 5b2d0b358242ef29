//! Filter, order and pages of a list; pure.

use std::cmp::Ordering;

use contract::{
    Timestamp,
    users::{List, PAGE_MAX, Page, Sort, User},
};

/// Users on a page when the request does not say.
const PAGE_DEFAULT: u32 = 100;
/// A page ends when its users have so many bytes as JSON, so that the reply fits a message of 1 MiB.
const PAGE_BYTES: usize = 768 * 1024;

/// The page that `request` asks for.
pub fn page<'u>(users: impl Iterator<Item = &'u User>, request: &List) -> Page {
    let mut matching: Vec<&User> = users.filter(|user| matches(user, request)).collect();
    let total = matching.len() as u64;
    let order = |a: &&User, b: &&User| {
        let order = compare(a, b, request.sort);
        if request.descending { order.reverse() } else { order }
    };
    // Users come by name already.
    if request.sort != Sort::Name || request.descending {
        matching.sort_by(order);
    }
    let start = match &request.after {
        Some(after) => matching.iter().position(|user| user.name == *after).map_or(0, |index| index + 1),
        None => 0,
    };
    let limit = request.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize;
    let mut bytes = 0;
    let mut page: Vec<User> = Vec::new();
    for user in matching.iter().skip(start).take(limit) {
        bytes += size(user);
        if bytes > PAGE_BYTES && !page.is_empty() {
            break;
        }
        page.push((*user).clone());
    }
    let more = start + page.len() < matching.len();
    let next = page.last().filter(|_| more).map(|user| user.name.clone());
    Page { users: page, total, next }
}

fn matches(user: &User, request: &List) -> bool {
    let contains = |text: &String| {
        user.name.as_str().contains(text.as_str())
            || user
                .note
                .as_ref()
                .is_some_and(|note| note.as_str().to_lowercase().contains(&text.to_lowercase()))
    };
    request.state.is_none_or(|state| user.state.kind() == state)
        && request.tag.as_ref().is_none_or(|tag| user.tags.contains(tag))
        && request.search.as_ref().is_none_or(contains)
}

fn compare(a: &User, b: &User, sort: Sort) -> Ordering {
    let first = match sort {
        Sort::Name => Ordering::Equal,
        Sort::Created => a.created_at.cmp(&b.created_at),
        Sort::Expires => {
            let never_last = |user: &User| user.expires_at.unwrap_or(Timestamp::MAX);
            never_last(a).cmp(&never_last(b))
        }
    };
    first.then_with(|| a.name.cmp(&b.name))
}

/// Bytes of a user as JSON, at most: 400 for what every user has, the rest is text.
fn size(user: &User) -> usize {
    let text = user.note.as_ref().map_or(0, |note| note.as_str().len() * 2);
    400 + user.name.as_str().len() + text + user.tags.iter().map(|tag| tag.as_str().len() + 3).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use contract::users::{Create, StateKind, UserId};
    use proptest::prelude::*;

    use super::*;

    fn users(count: usize) -> BTreeMap<String, User> {
        let now = Timestamp::UNIX_EPOCH;
        (0..count)
            .map(|index| {
                let mut create = Create::named(format!("u{index:05}").parse().unwrap());
                create.tags = BTreeSet::from([if index % 2 == 0 { "even" } else { "odd" }.parse().unwrap()]);
                let id = UserId(uuid::Uuid::from_u128(index as u128));
                (format!("u{index:05}"), User::new(create, id, now).unwrap())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn pages_together_are_the_list(count in 0_usize..120, limit in 1_u32..40, descending: bool) {
            let users = users(count);
            let mut request = List { limit: Some(limit), descending, ..List::default() };
            let mut seen = Vec::new();
            loop {
                let page = page(users.values(), &request);
                prop_assert_eq!(page.total, count as u64);
                prop_assert!(page.users.len() <= limit as usize);
                seen.extend(page.users.into_iter().map(|user| user.name.to_string()));
                match page.next {
                    Some(next) => request.after = Some(next),
                    None => break,
                }
            }
            let mut all: Vec<String> = users.into_keys().collect();
            if descending {
                all.reverse();
            }
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn filters_hold_together() {
        let users = users(10);
        let request =
            List { tag: Some("odd".parse().unwrap()), search: Some("u0000".into()), ..List::default() };
        assert_eq!(page(users.values(), &request).total, 5);
        let request = List { state: Some(StateKind::Suspended), ..List::default() };
        assert_eq!(page(users.values(), &request).total, 0);
    }

    #[test]
    fn a_page_of_long_notes_fits_one_message() {
        let mut users = users(1_000);
        for user in users.values_mut() {
            user.note = Some("\u{1f600}".repeat(500).parse().unwrap());
        }
        let page = page(users.values(), &List { limit: Some(1_000), ..List::default() });
        assert!(page.next.is_some() && serde_json::to_vec(&page).unwrap().len() < 1024 * 1024);
    }
}
