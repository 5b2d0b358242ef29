//! How to reach the bus: a URL and credentials, given or from a context of the `nats` command.

use std::path::{Path, PathBuf};

use contract::{Code, Error};
use serde::Deserialize;

/// Where a bus is when nobody says otherwise.
pub const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// How to reach the bus.
#[derive(Clone)]
pub struct Config {
    /// One or more URLs, separated by commas.
    pub url: String,
    /// What to prove oneself with.
    pub auth: Auth,
    /// A file with certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The name that the server's monitoring shows.
    pub name: String,
}

/// What to prove oneself with.
#[derive(Clone, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// A credentials file (JWT and nkey seed).
    Credentials(PathBuf),
    /// A file that holds an nkey seed.
    Nkey(PathBuf),
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Credentials(_) => "Credentials",
            Self::Nkey(_) => "Nkey",
            Self::Password { .. } => "Password",
            Self::Token(_) => "Token",
        })
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("url", &shown(&self.url))
            .field("auth", &self.auth)
            .field("ca_file", &self.ca_file)
            .field("name", &self.name)
            .finish()
    }
}

impl Config {
    /// A bus at `url` that asks for no credentials.
    pub fn new(url: impl Into<String>, name: impl Into<String>) -> Self {
        Self { url: url.into(), auth: Auth::None, ca_file: None, name: name.into() }
    }

    /// What a context of the `nats` command says; `folder` is its configuration folder (`~/.config/nats`).
    /// Without a name it is the selected one; none where none is selected.
    pub fn from_context(folder: &Path, context: Option<&str>, name: &str) -> Result<Option<Self>, Error> {
        let fail = |what: String| Error::new(Code::CLI_CONTEXT_INVALID, what);
        let selected = match context {
            Some(context) => context.to_owned(),
            None => match std::fs::read_to_string(folder.join("context.txt")) {
                Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
                _ => return Ok(None),
            },
        };
        if selected.contains(['/', '\0']) || selected.starts_with('.') {
            return Err(fail(format!("{selected:?} cannot be the name of a context")));
        }
        let path = folder.join("context").join(format!("{selected}.json"));
        let text = std::fs::read_to_string(&path)
            .map_err(|error| fail(format!("context {selected:?}, {}: {error}", path.display())))?;
        let context: Context = serde_json::from_str(&text)
            .map_err(|error| fail(format!("context {selected:?}, {}: {error}", path.display())))?;
        Ok(Some(context.into_config(name)))
    }
}

/// A URL without what it may hold of credentials.
pub fn shown(url: &str) -> String {
    url.split(',')
        .map(|url| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            _ => url.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// The fields of a context file that concern a connection.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    ca: String,
}

impl Context {
    fn into_config(self, name: &str) -> Config {
        let auth = if !self.creds.is_empty() {
            Auth::Credentials(self.creds.into())
        } else if !self.nkey.is_empty() {
            Auth::Nkey(self.nkey.into())
        } else if !self.user.is_empty() {
            Auth::Password { user: self.user, password: self.password }
        } else if !self.token.is_empty() {
            Auth::Token(self.token)
        } else {
            Auth::None
        };
        Config {
            url: if self.url.is_empty() { DEFAULT_URL.to_owned() } else { self.url },
            auth,
            ca_file: (!self.ca.is_empty()).then(|| self.ca.into()),
            name: name.to_owned(),
        }
    }
}
