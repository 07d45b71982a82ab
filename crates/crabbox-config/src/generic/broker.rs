//! The coordinator that leases on the user's behalf.

use std::fmt;

use crabbox_core::secret::{Secret, display_url};
use crabbox_core::section::{FromSetting, Kind, SettingValue};
use crabbox_core::{Error, Result, Section, choices};

choices! {
    /// Who creates machines.
    pub enum BrokerMode {
        /// The coordinator, with its own credentials.
        Managed = "managed",
        /// This machine; the coordinator only keeps the record.
        Registered = "registered",
    }
}

/// The coordinator, and how to authenticate with it.
#[derive(Clone, Section)]
#[section(name = "broker")]
#[non_exhaustive]
pub struct Broker {
    /// Address of the coordinator.
    #[key(alias = "/coordinator", env = "CRABBOX_COORDINATOR", destination)]
    pub url: Option<String>,
    /// Who creates machines.
    #[key(env = "CRABBOX_COORDINATOR_MODE", default = "managed")]
    pub mode: BrokerMode,
    /// Whether desktops are published through the coordinator's viewer.
    #[key(name = "autoWebVNC", env = "CRABBOX_COORDINATOR_AUTO_WEBVNC", default = true)]
    pub auto_web_vnc: bool,
    /// Other origins that a login may be redirected to.
    #[key(env = "CRABBOX_BROKER_LOGIN_REDIRECT_ORIGINS", trust = operator)]
    pub login_redirect_origins: Vec<String>,
    /// Token of the user.
    #[key(alias = "/coordinatorToken", env = "CRABBOX_COORDINATOR_TOKEN", secret)]
    pub token: Option<Secret>,
    /// Command that prints a short-lived token, as a JSON array; it takes precedence over the token.
    #[key(env = "CRABBOX_COORDINATOR_TOKEN_COMMAND", no_file, secret)]
    pub token_command: Option<TokenCommand>,
    /// Token of an administrator.
    #[key(env = ["CRABBOX_COORDINATOR_ADMIN_TOKEN", "CRABBOX_ADMIN_TOKEN"], secret)]
    pub admin_token: Option<Secret>,
    /// Provider to use with this coordinator when no other is chosen.
    #[key]
    pub provider: Option<String>,
    /// Id of an Access service token.
    #[key(name = "access.clientId", env = ["CRABBOX_ACCESS_CLIENT_ID", "CF_ACCESS_CLIENT_ID"], secret)]
    pub access_client_id: Option<Secret>,
    /// Secret of an Access service token.
    #[key(name = "access.clientSecret", env = ["CRABBOX_ACCESS_CLIENT_SECRET", "CF_ACCESS_CLIENT_SECRET"], secret)]
    pub access_client_secret: Option<Secret>,
    /// Access token of a user.
    #[key(name = "access.token", env = ["CRABBOX_ACCESS_TOKEN", "CF_ACCESS_TOKEN"], secret)]
    pub access_token: Option<Secret>,
    /// Who is asking, for the coordinator's records; git's author when it is not set.
    #[key(env = ["CRABBOX_OWNER", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"], no_file)]
    pub owner: Option<String>,
    /// Organisation that is asking.
    #[key(env = "CRABBOX_ORG", no_file)]
    pub org: Option<String>,
}

impl Broker {
    /// State of the user's credential in reports: `command`, `configured` or `missing`.
    pub fn auth_state(&self) -> &'static str {
        match (&self.token_command, &self.token) {
            (Some(_), _) => "command",
            (None, token) => configured(token.as_ref()),
        }
    }

    /// State of the administrator's credential: `configured` or `missing`.
    pub fn admin_auth_state(&self) -> &'static str {
        configured(self.admin_token.as_ref())
    }

    /// State of the Access credentials: `missing`, `service-token`, `token`, `service-token+token` or `incomplete`.
    pub fn access_auth_state(&self) -> &'static str {
        match (&self.access_client_id, &self.access_client_secret, &self.access_token) {
            (Some(_), Some(_), Some(_)) => "service-token+token",
            (Some(_), Some(_), None) => "service-token",
            (None, None, Some(_)) => "token",
            (None, None, None) => "missing",
            _ => "incomplete",
        }
    }
}

/// The address may hold a credential.
impl fmt::Debug for Broker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Broker")
            .field("url", &self.url.as_deref().map(display_url))
            .field("mode", &self.mode)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

fn configured(secret: Option<&Secret>) -> &'static str {
    if secret.is_some_and(|secret| !secret.is_empty()) {
        "configured"
    } else {
        "missing"
    }
}

/// A program and its arguments, which print a token on one line.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenCommand(Vec<String>);

impl TokenCommand {
    /// The program, then its arguments.
    pub fn argv(&self) -> &[String] {
        &self.0
    }
}

/// The arguments may hold a credential.
impl fmt::Debug for TokenCommand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<command of {} words>", self.0.len())
    }
}

impl FromSetting for TokenCommand {
    const KIND: Kind = Kind::Any;
    const SECRET: bool = true;

    fn from_setting(value: &SettingValue) -> Result<Self> {
        let refuse = || {
            Error::usage("not a JSON array of words")
                .with_hint("write it as `[\"program\", \"argument\"]`, each on one line")
        };
        let SettingValue::Any(serde_json::Value::Array(words)) = value else {
            return Err(refuse());
        };
        let words = words
            .iter()
            .map(|word| {
                let word = word
                    .as_str()
                    .filter(|word| !word.trim().is_empty() && !word.contains(['\r', '\n', '\0']));
                word.map(str::to_owned).ok_or_else(refuse)
            })
            .collect::<Result<Vec<_>>>()?;
        if words.is_empty() {
            Err(refuse())
        } else {
            Ok(Self(words))
        }
    }
}
