//! What can be refused.

use contract::{Code, Invalid, UserName, users::User};
use uuid::Uuid;

/// Why a request about users is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that its type cannot hold.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is a user of that name.
    #[error("there is a user named \"{name}\" already{}", since(.existing.as_deref()))]
    Taken {
        /// The name.
        name: UserName,
        /// Who has it.
        existing: Option<Box<User>>,
    },
    /// There is no user of that name.
    #[error("there is no user named \"{0}\"")]
    NotFound(UserName),
    /// A batch that cannot be taken as it is.
    #[error("{0}")]
    Batch(String),
    /// A batch that stopped on its way.
    #[error("{cause}; {created} of {total} users of batch {batch} are made, and the rest is not")]
    Stopped {
        /// Why.
        cause: Box<Error>,
        /// The id under which to resume.
        batch: Uuid,
        /// How many are made.
        created: usize,
        /// How many were asked for.
        total: usize,
    },
    /// The bus.
    #[error(transparent)]
    Bus(#[from] contract::Error),
}

fn since(existing: Option<&User>) -> String {
    existing.map(|user| format!(", since {:.0}", user.created_at)).unwrap_or_default()
}

impl From<Error> for contract::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid(invalid) => invalid.into(),
            Error::Taken { name, .. } => Self::new(Code::USERS_NAME_TAKEN, message)
                .with_hint(format!("Pick another name, or change this one: vpn users update {name}.")),
            Error::NotFound(_) => Self::new(Code::USERS_NOT_FOUND, message),
            Error::Batch(_) => Self::new(Code::USERS_BATCH_INVALID, message),
            Error::Stopped { cause, batch, .. } => {
                let cause = Self::from(*cause);
                let hint = format!("{} Then send all of them again with batch {batch}.", cause.hint);
                Self { message, ..cause }.with_hint(hint)
            }
            Error::Bus(error) => error,
        }
    }
}
