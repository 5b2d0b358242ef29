//! `vpn users`.

use contract::{
    Error, Timestamp,
    users::{self, PAGE_MAX, Period, User, UserState},
};

use super::{import, link};
use crate::{
    args::users::{Create, List, Update, Verb},
    context::Context,
    output::{Cell, Paint, Style, Table, bytes},
};

pub(crate) async fn run(ctx: &Context, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Create(args) => {
            let user = ctx.call(create(args)?).await?;
            ctx.output.show(&user, |style| line(&user, style))?;
            ctx.started(Some(&format!("vpn link {} --qr", user.name)));
        }
        Verb::List(args) => {
            let (users, total) = list(ctx, args).await?;
            ctx.output.show(&users, |style| table(&users, total, style))?;
        }
        Verb::Show { name } => {
            let user = ctx.call(users::Get { name }).await?;
            ctx.output.show(&user, |style| show(&user, style))?;
        }
        Verb::Update(args) => changed(ctx, &ctx.call(update(args)?).await?)?,
        Verb::Suspend { name, reason } => changed(ctx, &ctx.call(users::Suspend { name, reason }).await?)?,
        Verb::Resume { name } => changed(ctx, &ctx.call(users::Resume { name }).await?)?,
        Verb::Delete { name } => {
            let user = ctx.call(users::Delete { name }).await?;
            ctx.output.show(&user, |_| format!("{}   deleted", user.name))?;
            ctx.started(None);
        }
        Verb::Link(args) => link::run(ctx, args).await?,
        Verb::Import(args) => import::run(ctx, args).await?,
    }
    Ok(())
}

fn changed(ctx: &Context, user: &User) -> Result<(), Error> {
    ctx.output.show(user, |style| line(user, style))?;
    ctx.started(None);
    Ok(())
}

fn create(args: Create) -> Result<users::Create, Error> {
    let expires_at = args.expires.map(|moment| moment.from(Timestamp::now())).transpose()?;
    Ok(users::Create {
        name: args.name,
        tags: args.tags.into_iter().collect(),
        note: args.note,
        quota: args.quota,
        quota_reset: args.every.map(Period::from).unwrap_or_default(),
        expires_at,
    })
}

fn update(args: Update) -> Result<users::Update, Error> {
    let expires_at = args.expires.map(|moment| moment.from(Timestamp::now())).transpose()?;
    let tags = !args.tags.is_empty() || args.no_tags;
    Ok(users::Update {
        name: args.name,
        tags: tags.then(|| args.tags.into_iter().collect()),
        note: changes(args.note, args.no_note),
        quota: changes(args.quota, args.no_quota),
        quota_reset: args.every.map(Period::from),
        expires_at: changes(expires_at, args.no_expires),
    })
}

/// A new value, none any more, or as it was.
fn changes<T>(value: Option<T>, gone: bool) -> Option<Option<T>> {
    if gone { Some(None) } else { value.map(Some) }
}

/// All that match, page by page, and how many there are in all.
async fn list(ctx: &Context, args: List) -> Result<(Vec<User>, u64), Error> {
    let mut request = users::List {
        state: args.state.map(Into::into),
        tag: args.tag,
        search: args.search,
        sort: args.sort.into(),
        descending: args.descending,
        limit: None,
        after: None,
    };
    let wanted = args.limit.unwrap_or(u64::MAX);
    let mut users: Vec<User> = Vec::new();
    loop {
        let missing = wanted - users.len() as u64;
        request.limit = Some(u32::try_from(missing).unwrap_or(PAGE_MAX).min(PAGE_MAX));
        let page = ctx.call(request.clone()).await?;
        let empty = page.users.is_empty();
        users.extend(page.users);
        match page.next {
            Some(next) if (users.len() as u64) < wanted && !empty => request.after = Some(next),
            _ => return Ok((users, page.total)),
        }
    }
}

fn table(users: &[User], total: u64, style: &Style) -> String {
    if users.is_empty() {
        return "no users: vpn users create NAME".to_owned();
    }
    let mut table = Table::new(["NAME", "STATE", "QUOTA", "EXPIRES", "TAGS"]);
    for user in users {
        let tags: Vec<&str> = user.tags.iter().map(AsRef::as_ref).collect();
        table.row([
            user.name.as_str().into(),
            state(user),
            quota(user).into(),
            user.expires_at.map(|at| style.moment(at)).unwrap_or_default().into(),
            tags.join(" ").into(),
        ]);
    }
    format!("{}{} of {total} users", table.render(style), users.len())
}

/// One user on one line: `alice   active   50 GB/month   until 2027-02-20`.
pub(crate) fn line(user: &User, style: &Style) -> String {
    let mut table = Table::lines();
    let until = user.expires_at.map(|at| format!("until {}", at.strftime("%Y-%m-%d"))).unwrap_or_default();
    table.row([
        Cell::painted(Paint::Strong, user.name.as_str()),
        state(user),
        quota(user).into(),
        until.into(),
    ]);
    table.render(style)
}

fn show(user: &User, style: &Style) -> String {
    let mut table = Table::lines();
    let tags: Vec<&str> = user.tags.iter().map(AsRef::as_ref).collect();
    table.row(["user".into(), Cell::painted(Paint::Strong, user.name.as_str())]);
    table.row(["state".into(), state(user)]);
    match &user.state {
        UserState::Active => {}
        UserState::Suspended { since, reason } => {
            table.row(["since".into(), style.moment(*since).into()]);
            if let Some(reason) = reason {
                table.row(["reason".into(), reason.as_str().into()]);
            }
        }
        UserState::Expired { since } => table.row(["since".into(), style.moment(*since).into()]),
    }
    table.row(["quota".into(), quota(user).into()]);
    if let Some(at) = user.expires_at {
        table.row(["expires".into(), style.moment(at).into()]);
    }
    if !tags.is_empty() {
        table.row(["tags".into(), tags.join(" ").into()]);
    }
    if let Some(note) = &user.note {
        table.row(["note".into(), note.as_str().into()]);
    }
    table.row(["created".into(), style.moment(user.created_at).into()]);
    table.row(["changed".into(), style.moment(user.updated_at).into()]);
    table.row(["id".into(), user.id.0.to_string().into()]);
    table.render(style)
}

fn state(user: &User) -> Cell {
    match user.state {
        UserState::Active => Cell::painted(Paint::Good, "active"),
        UserState::Suspended { .. } => Cell::painted(Paint::Warn, "suspended"),
        UserState::Expired { .. } => Cell::painted(Paint::Bad, "expired"),
    }
}

fn quota(user: &User) -> String {
    let Some(quota) = user.quota else { return "unlimited".to_owned() };
    let per = match user.quota_reset {
        Period::Never => "",
        Period::Day => "/day",
        Period::Week => "/week",
        Period::Month => "/month",
    };
    format!("{}{per}", bytes(quota))
}
