//! `vpn users import`: many users from a file, 1,000 at once or not at all.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use contract::{
    Code, Error, Timestamp, UserName,
    users::{self, BATCH_MAX, Create, Period},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    args::{
        users::{Import, ImportFormat},
        value::Moment,
    },
    context::Context,
};

/// What one request may hold: below the 1 MiB that a bus takes, with room for its headers.
const REQUEST_BYTES: usize = 900 * 1024;
/// What one file may hold: a million users with notes; all of it is in memory while it is checked.
const FILE_BYTES: u64 = 512 * 1024 * 1024;
/// How long one atomic batch may take at the least, whatever `--timeout` says of small requests.
const BATCH_WITHIN: Duration = Duration::from_secs(8);

/// What came of it.
#[derive(Serialize)]
struct Imported {
    batch: Uuid,
    created: u64,
}

pub(crate) async fn run(ctx: &Context, args: Import) -> Result<(), Error> {
    let text = read(&args.file)?;
    let users = parse(&text, args.format, &args.file.to_string_lossy(), Timestamp::now())?;
    drop(text);
    let total = users.len() as u64;
    let batch = args.batch.unwrap_or_else(Uuid::now_v7);
    let chunks = chunks(users)?;
    let resume = format!("vpn users import {} --batch {batch}", args.file.display());
    if chunks.len() > 1 && ctx.output.for_people() {
        // Said before the first is sent, for whoever is interrupted.
        ctx.output.aside(&format!("{total} users; if this is interrupted: {resume}"));
    }
    let bar = bar(ctx, total);
    let mut created = 0;
    for users in chunks {
        let count = users.len() as u64;
        let request = users::CreateMany { users, batch: Some(batch) };
        let within = ctx.config.timeout.max(BATCH_WITHIN);
        let sent = ctx.bus().await?.call_within(request, within).await;
        let reply = sent.inspect_err(|_| bar.abandon()).map_err(|error| {
            let so_far = format!("{created} of {total} users exist by this import");
            let hint = format!("{} Then go on: {resume}", error.hint);
            Error { message: format!("{}\n{so_far}", error.message), ..error }.with_hint(hint)
        })?;
        created += reply.created.min(count);
        bar.inc(count);
    }
    bar.finish_and_clear();
    let imported = Imported { batch, created };
    ctx.output.show(&imported, |_| format!("{created} users   batch {batch}"))?;
    ctx.started(Some("vpn users list"));
    Ok(())
}

fn bar(ctx: &Context, total: u64) -> ProgressBar {
    let target = if ctx.output.is_watched() && ctx.output.for_people() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} users, {per_sec}, {eta} to go")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}

fn read(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(FILE_BYTES + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_string(&mut text))
    };
    let refuse =
        |why: &dyn std::fmt::Display| Err(Error::new(Code::CLI_FILE, format!("{}: {why}", path.display())));
    match read {
        Err(error) => refuse(&error),
        Ok(_) if text.len() as u64 > FILE_BYTES => refuse(&"it is larger than 512 MiB; import it in parts"),
        Ok(_) => Ok(text),
    }
}

/// All users of the file, each checked, each name once.
fn parse(text: &str, format: Option<ImportFormat>, file: &str, now: Timestamp) -> Result<Vec<Create>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let format = format.unwrap_or_else(|| guess(text));
    let at = |line: u64, error: Error| Error {
        message: format!("{file}, line {line}: {}", error.message),
        ..error
    };
    let mut users = Vec::new();
    let mut seen: BTreeSet<UserName> = BTreeSet::new();
    let mut take = |line: u64, user: Result<Create, Error>| {
        let user = user
            .and_then(|user| users::check_tags(&user.tags).map(|()| user).map_err(Error::from))
            .and_then(|user| users::check_expiry(user.expires_at, now).map(|()| user).map_err(Error::from))
            .map_err(|error| at(line, error))?;
        if !seen.insert(user.name.clone()) {
            let twice = Error::new(Code::USERS_BATCH_INVALID, format!("{} stands there twice", user.name));
            return Err(at(line, twice));
        }
        users.push(user);
        Ok(())
    };
    match format {
        ImportFormat::Csv => csv(text, now, &at, &mut take)?,
        ImportFormat::Names | ImportFormat::Jsonl => {
            for (number, line) in (1..).zip(text.lines()) {
                let line = line.trim();
                if line.is_empty() {
                    continue;
                }
                let user = match format {
                    ImportFormat::Jsonl => json(line),
                    _ => line.parse().map(Create::named).map_err(Error::from),
                };
                take(number, user)?;
            }
        }
    }
    if users.is_empty() {
        return Err(Error::new(Code::USERS_BATCH_INVALID, format!("{file} holds no users")));
    }
    Ok(users)
}

fn guess(text: &str) -> ImportFormat {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if first.starts_with('{') {
        ImportFormat::Jsonl
    } else if first.contains(',') || first == "name" {
        ImportFormat::Csv
    } else {
        ImportFormat::Names
    }
}

fn json(line: &str) -> Result<Create, Error> {
    serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        match contract::Invalid::split(&text) {
            // serde_json adds where in the line it was.
            Some((code, message)) => Error::new(code, message.split(" at line 1 ").next().unwrap_or(message)),
            None => Error::new(Code::REQUEST_INVALID, text),
        }
    })
}

fn csv(
    text: &str,
    now: Timestamp,
    at: &dyn Fn(u64, Error) -> Error,
    take: &mut dyn FnMut(u64, Result<Create, Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let malformed = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        at(line, Error::new(Code::REQUEST_INVALID, error.to_string()))
    };
    let head = reader.headers().map_err(malformed)?.clone();
    if let Some(unknown) = head.iter().find(|column| !COLUMNS.contains(column)) {
        let known = COLUMNS.join(", ");
        return Err(at(
            1,
            Error::new(Code::REQUEST_INVALID, format!("there is no column {unknown:?}; there are {known}")),
        ));
    }
    for record in reader.records() {
        let record = record.map_err(malformed)?;
        let line = record.position().map_or(0, csv::Position::line);
        let fields = head.iter().zip(record.iter()).filter(|(_, value)| !value.is_empty());
        take(line, row(fields, now))?;
    }
    Ok(())
}

/// The columns that a CSV file may have.
const COLUMNS: [&str; 6] = ["name", "quota", "every", "expires", "tags", "note"];

fn row<'r>(fields: impl Iterator<Item = (&'r str, &'r str)>, now: Timestamp) -> Result<Create, Error> {
    let nameless = || Error::new(Code::USERS_NAME_INVALID, "there is no name");
    let mut user: Option<Create> = None;
    let mut later = Vec::new();
    for (column, value) in fields {
        match column {
            "name" => user = Some(Create::named(value.parse()?)),
            _ => later.push((column, value)),
        }
    }
    let mut user = user.ok_or_else(nameless)?;
    for (column, value) in later {
        match column {
            "quota" => user.quota = Some(value.parse()?),
            "every" => user.quota_reset = period(value)?,
            "expires" => user.expires_at = Some(value.parse::<Moment>()?.from(now)?),
            "tags" => user.tags = value.split_whitespace().map(str::parse).collect::<Result<_, _>>()?,
            _ => user.note = Some(value.parse()?),
        }
    }
    Ok(user)
}

fn period(text: &str) -> Result<Period, Error> {
    match text {
        "day" => Ok(Period::Day),
        "week" => Ok(Period::Week),
        "month" => Ok(Period::Month),
        "never" => Ok(Period::Never),
        _ => Err(Error::new(Code::REQUEST_INVALID, format!("{text:?} is none of day, week, month, never"))),
    }
}

/// As many as go into one request, in their order.
fn chunks(users: Vec<Create>) -> Result<Vec<Vec<Create>>, Error> {
    let mut chunks: Vec<Vec<Create>> = Vec::new();
    let mut bytes = usize::MAX;
    for user in users {
        let size =
            serde_json::to_vec(&user).map_err(|error| Error::new(Code::INTERNAL, error.to_string()))?.len()
                + 1;
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < BATCH_MAX && bytes + size <= REQUEST_BYTES => {
                chunk.push(user);
                bytes += size;
            }
            _ => {
                chunks.push(vec![user]);
                bytes = size;
            }
        }
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T14:03:00Z".parse().unwrap()
    }

    fn parsed(text: &str) -> Result<Vec<Create>, Error> {
        parse(text, None, "people", now())
    }

    #[test]
    fn three_formats_tell_themselves_apart() {
        let names = parsed("alice\n\n  bob\r\n").unwrap();
        assert_eq!(names.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);

        let csv = parsed(
            "\u{feff}name,quota,every,expires,tags,note\nalice,50GB,month,90d,a b,\"x, y\"\nbob,,,,,\n",
        )
        .unwrap();
        let json = parsed(
            r#"{"name":"alice","quota":"50GB","quota_reset":"month","expires_at":"2027-02-20T14:03:00Z","tags":["b","a"],"note":"x, y"}
               {"name":"bob"}"#,
        )
        .unwrap();
        assert_eq!(serde_json::to_value(&csv).unwrap(), serde_json::to_value(&json).unwrap());
    }

    #[test]
    fn a_bad_line_is_named() {
        let refused = |text: &str| {
            let error = parsed(text).unwrap_err();
            (error.code, error.message)
        };
        let (code, message) = refused("alice\nBob");
        assert_eq!(
            (code, message.starts_with("people, line 2: \"Bob\"")),
            (Code::USERS_NAME_INVALID, true),
            "{message}"
        );
        let (code, message) = refused("{\"name\":\"alice\"}\n{\"name\":\"../x\"}");
        assert_eq!(
            (code, message.starts_with("people, line 2: \"../x\"")),
            (Code::USERS_NAME_INVALID, true),
            "{message}"
        );
        assert!(!message.contains("column"), "{message}");
        assert_eq!(refused("name,quota\nalice,-5").0, Code::USERS_QUOTA_INVALID);
        assert_eq!(refused("name,expires\nalice,2020-01-01").0, Code::USERS_EXPIRY_PAST);
        assert_eq!(refused("name,colour\nalice,red").0, Code::REQUEST_INVALID);
        assert_eq!(refused("name,quota\nalice").0, Code::REQUEST_INVALID);
        assert_eq!(refused("alice\nbob\nalice").0, Code::USERS_BATCH_INVALID);
        assert_eq!(refused("\n").0, Code::USERS_BATCH_INVALID);
        assert_eq!(refused("{\"name\":\"alice\",\"colour\":1}").0, Code::REQUEST_INVALID);
    }

    #[test]
    fn chunks_fit_a_request() {
        let users = |count: usize, note: &str| {
            let user = |number| Create {
                note: Some(note.parse().unwrap()),
                ..Create::named(format!("u{number}").parse().unwrap())
            };
            (0..count).map(user).collect::<Vec<_>>()
        };
        let sizes = |chunks: Vec<Vec<Create>>| chunks.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(chunks(users(2_001, "x")).unwrap()), [1_000, 1_000, 1]);
        let wide = chunks(users(1_000, &"✓".repeat(500))).unwrap();
        assert!(wide.len() > 1);
        assert!(wide.iter().all(|chunk| serde_json::to_vec(chunk).unwrap().len() <= REQUEST_BYTES + 2));
    }
}
