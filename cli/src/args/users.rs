//! The verbs of `vpn users`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use contract::{ByteCount, Note, Tag, UserName, users};
use uuid::Uuid;

use super::{Link, value::Moment};

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a user; credentials follow within milliseconds
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List users
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
    /// Show one user
    #[command(visible_alias = "get")]
    Show {
        /// Whom
        name: UserName,
    },
    /// Change what is named; what is not named stays
    Update(Update),
    /// Stop a user: no new connections, and the open ones end
    Suspend {
        /// Whom
        name: UserName,
        /// Why; kept with the change
        #[arg(long, value_name = "TEXT")]
        reason: Option<Note>,
    },
    /// Let a suspended user connect again
    Resume {
        /// Whom
        name: UserName,
    },
    /// Remove a user: connections end, credentials are destroyed, the name is free again
    Delete {
        /// Whom
        name: UserName,
    },
    /// What a user's app imports: the same as `vpn link`
    Link(Link),
    /// Create many users from a file
    #[command(after_help = IMPORT_EXAMPLES, visible_alias = "create-many")]
    Import(Import),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  vpn users create alice
  vpn users create bob --quota 50GB --every month --expires 90d --tag family";

/// A user to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name: 1 to 64 of a-z, 0-9, - and _
    pub(crate) name: UserName,
    /// How much it may transfer, both directions together: 50GB, 50GiB
    #[arg(long, value_name = "BYTES")]
    pub(crate) quota: Option<ByteCount>,
    /// How often the count starts again
    #[arg(long, value_enum, value_name = "PERIOD", requires = "quota")]
    pub(crate) every: Option<Every>,
    /// When it ends: 90d, 1mo, 2030-01-31 or RFC 3339
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<Moment>,
    /// What to group it by; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<Tag>,
    /// What to remember
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<Note>,
}

/// How often the count towards a quota starts again, in UTC.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Every {
    /// At midnight
    Day,
    /// On Monday
    Week,
    /// On the first of the month
    Month,
    /// Never: the quota is for the account's whole life
    Never,
}

impl From<Every> for users::Period {
    fn from(every: Every) -> Self {
        match every {
            Every::Day => Self::Day,
            Every::Week => Self::Week,
            Every::Month => Self::Month,
            Every::Never => Self::Never,
        }
    }
}

const LIST_EXAMPLES: &str = "\
Examples:
  vpn users list --state suspended
  vpn users list --tag family --sort expires
  vpn users list -o json | jq -r '.[].name'";

/// Which users, in which order.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only those in this state
    #[arg(long, value_enum)]
    pub(crate) state: Option<State>,
    /// Only those with this tag
    #[arg(long)]
    pub(crate) tag: Option<Tag>,
    /// Only those whose name or note contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// In which order
    #[arg(long, value_enum, default_value_t = Sort::Name)]
    pub(crate) sort: Sort,
    /// The other way round
    #[arg(long)]
    pub(crate) descending: bool,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

/// The states a user can be in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum State {
    /// May connect
    Active,
    /// Stopped by an operator
    Suspended,
    /// Its time is over
    Expired,
}

impl From<State> for users::StateKind {
    fn from(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Suspended => Self::Suspended,
            State::Expired => Self::Expired,
        }
    }
}

/// Orders of a list.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Sort {
    /// By name
    Name,
    /// The oldest first
    Created,
    /// The next to expire first
    Expires,
}

impl From<Sort> for users::Sort {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Name => Self::Name,
            Sort::Created => Self::Created,
            Sort::Expires => Self::Expires,
        }
    }
}

/// What to change about a user.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
#[command(override_usage = "vpn users update <NAME> <WHAT TO CHANGE>...")]
pub(crate) struct Update {
    /// Whom
    pub(crate) name: UserName,
    /// How much it may transfer per period: 50GB, 50GiB
    #[arg(long, value_name = "BYTES", group = "change", conflicts_with = "no_quota")]
    pub(crate) quota: Option<ByteCount>,
    /// Unlimited from now on
    #[arg(long, group = "change")]
    pub(crate) no_quota: bool,
    /// How often the count starts again
    #[arg(long, value_enum, value_name = "PERIOD", group = "change")]
    pub(crate) every: Option<Every>,
    /// When it ends: 90d, 1mo, 2030-01-31 or RFC 3339; gives an expired user time again
    #[arg(long, value_name = "WHEN", group = "change", conflicts_with = "no_expires")]
    pub(crate) expires: Option<Moment>,
    /// It does not end by itself any more
    #[arg(long, group = "change")]
    pub(crate) no_expires: bool,
    /// All its tags from now on; may be given several times
    #[arg(long = "tag", value_name = "TAG", group = "change", conflicts_with = "no_tags")]
    pub(crate) tags: Vec<Tag>,
    /// No tags any more
    #[arg(long, group = "change")]
    pub(crate) no_tags: bool,
    /// What to remember
    #[arg(long, value_name = "TEXT", group = "change", conflicts_with = "no_note")]
    pub(crate) note: Option<Note>,
    /// Forget the note
    #[arg(long, group = "change")]
    pub(crate) no_note: bool,
}

const IMPORT_EXAMPLES: &str = "\
The file holds one name per line; or CSV whose first line names its columns: name, and any of quota, every, \
expires, tags (separated by spaces), note; or one JSON object per line, as `vpn.users.create` takes it.
All of it is checked before anything is sent. Every 1,000 users are created at once or not at all.

Examples:
  vpn users import people.csv
  seq -f 'guest-%g' 1 500 | vpn users import -
  vpn users import people.csv --batch 0192…   go on after it was interrupted";

/// Where many users come from.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// The file; - for standard input
    pub(crate) file: PathBuf,
    /// What is in it; guessed from its first line when absent
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<ImportFormat>,
    /// Go on with an import that was interrupted: users that it has made already are left alone
    #[arg(long, value_name = "ID")]
    pub(crate) batch: Option<Uuid>,
}

/// What can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// One name per line
    Names,
    /// Columns by name
    Csv,
    /// One JSON object per line
    Jsonl,
}
