//! How a box is reached, what travels to it, and what is kept of a run.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crabbox_core::section::{FromSetting, Kind, SettingValue, wrong_shape};
use crabbox_core::{Error, Result, Section, choices};

choices! {
    /// Which SSH client is used.
    pub enum SshTransport {
        /// The one that is built in.
        Builtin = "builtin",
        /// OpenSSH's `ssh` on this machine, with its own configuration.
        Openssh = "openssh",
    }
}

/// How boxes are reached over SSH.
#[derive(Clone, Debug, Section)]
#[section(name = "ssh")]
#[non_exhaustive]
pub struct Ssh {
    /// User on the box.
    #[key(env = "CRABBOX_SSH_USER", default = "crabbox")]
    pub user: String,
    /// Private key for boxes that no lease key exists for.
    #[key(env = "CRABBOX_SSH_KEY", default = "~/.ssh/id_ed25519")]
    pub key: PathBuf,
    /// Port of the box's SSH server.
    #[key(env = "CRABBOX_SSH_PORT", flag = "ssh-port", default = 2222)]
    pub port: Port,
    /// Ports to try when the first is not reachable; an empty list tries none.
    #[key(env = "CRABBOX_SSH_FALLBACK_PORTS", merge = replace_when_present, default = "22")]
    pub fallback_ports: Ports,
    /// Which SSH client is used.
    #[key(env = "CRABBOX_SSH_TRANSPORT", trust = operator, default = "builtin")]
    pub transport: SshTransport,
}

/// A port, which files may write as a number or as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);

impl FromStr for Port {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim().parse() {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(Error::usage(format!("not a port: `{}`", text.escape_debug()))
                .with_hint("write a number from 1 to 65535")),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromSetting for Port {
    const KIND: Kind = Kind::Text;

    fn from_setting(value: &SettingValue) -> Result<Self> {
        match value {
            SettingValue::Text(text) => text.parse(),
            other => Err(wrong_shape("port", other)),
        }
    }
}

/// Port numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(pub Vec<u16>);

impl FromSetting for Ports {
    const KIND: Kind = Kind::List;

    fn from_setting(value: &SettingValue) -> Result<Self> {
        let SettingValue::List(list) = value else {
            return Err(wrong_shape("list", value));
        };
        list.iter()
            .map(|text| text.parse().map(|Port(port)| port))
            .collect::<Result<_>>()
            .map(Self)
    }

    fn when_absent() -> Option<Self> {
        Some(Self::default())
    }
}

choices! {
    /// What decides which files travel.
    pub enum SyncSource {
        /// Git, or a colocated Jujutsu repository, when there is one; a plain directory must be asked for.
        Auto = "auto",
        /// Git's index and ignore rules.
        Git = "git",
        /// Every file below the directory that is not excluded.
        Directory = "directory",
    }
}

/// What travels to the box.
#[derive(Clone, Debug, Section)]
#[section(name = "sync")]
#[non_exhaustive]
pub struct Sync {
    /// What decides which files travel.
    #[key(env = "CRABBOX_SYNC_SOURCE", default = "auto")]
    pub source: SyncSource,
    /// Patterns of files that stay here, in gitignore syntax. Order counts: `!` brings files back.
    #[key(alias = "excludes", merge = append)]
    pub exclude: Vec<String>,
    /// Patterns of files that travel although they are ignored.
    #[key(alias = "includes", merge = append_unique)]
    pub include: Vec<String>,
    /// Whether files that are gone here are deleted on the box.
    #[key(env = "CRABBOX_SYNC_DELETE", default = true)]
    pub delete: bool,
    /// Whether content is compared instead of size and time.
    #[key(env = "CRABBOX_SYNC_CHECKSUM", flag = "checksum")]
    pub checksum: bool,
    /// Whether a new box starts from a clone of the remote repository.
    #[key(env = "CRABBOX_SYNC_GIT_SEED", default = true)]
    pub git_seed: bool,
    /// Whether an unchanged tree skips the transfer.
    #[key(env = "CRABBOX_SYNC_FINGERPRINT", default = true)]
    pub fingerprint: bool,
    /// Revision that the seed is made from.
    #[key(env = "CRABBOX_SYNC_BASE_REF")]
    pub base_ref: Option<String>,
    /// Longest time a sync may take.
    #[key(env = "CRABBOX_SYNC_TIMEOUT", default = "15m")]
    pub timeout: Duration,
    /// Files beyond which a sync warns.
    #[key(env = "CRABBOX_SYNC_WARN_FILES", default = 50000)]
    pub warn_files: u64,
    /// Bytes beyond which a sync warns.
    #[key(env = "CRABBOX_SYNC_WARN_BYTES", kind = bytes, default = "5GiB")]
    pub warn_bytes: u64,
    /// Files beyond which a sync is refused.
    #[key(env = "CRABBOX_SYNC_FAIL_FILES", default = 150000)]
    pub fail_files: u64,
    /// Bytes beyond which a sync is refused.
    #[key(env = "CRABBOX_SYNC_FAIL_BYTES", kind = bytes, default = "20GiB")]
    pub fail_bytes: u64,
    /// Whether the limits only warn.
    #[key(env = "CRABBOX_SYNC_ALLOW_LARGE", flag = "force-sync-large")]
    pub allow_large: bool,
    /// Whether a sync may delete most of what is on the box.
    #[key(env = "CRABBOX_ALLOW_MASS_DELETIONS", no_file)]
    pub allow_mass_deletions: bool,
}

/// What happens around the command.
#[derive(Clone, Debug, Section)]
#[section(name = "run")]
#[non_exhaustive]
pub struct Run {
    /// Tools that the preflight looks for; `default` stands for the built-in set, `none` for nothing.
    #[key(env = "CRABBOX_PREFLIGHT_TOOLS", flag = "preflight-tools")]
    pub preflight_tools: Vec<String>,
}

/// Which local variables reach the command.
#[derive(Clone, Debug, Section)]
#[section(name = "env")]
#[non_exhaustive]
pub struct Forwarding {
    /// Names of variables, each exact or a prefix that ends with `*`. A repository file cannot name a credential.
    #[key(
        env = "CRABBOX_ENV_ALLOW",
        flag = "allow-env",
        flag_appends,
        default = "CI,NODE_OPTIONS"
    )]
    pub allow: Vec<String>,
}

/// What is read from test reports.
#[derive(Clone, Debug, Section)]
#[section(name = "results")]
#[non_exhaustive]
pub struct Results {
    /// JUnit files on the box, relative to the workspace.
    #[key(env = "CRABBOX_RESULTS_JUNIT", flag = "junit")]
    pub junit: Vec<String>,
    /// Whether reports are looked for in the usual places.
    #[key(env = "CRABBOX_RESULTS_AUTO", flag = "results-auto")]
    pub auto: bool,
    /// Whether failed tests fail a run whose command succeeded.
    #[key(env = "CRABBOX_RESULTS_FAIL_ON_FAILURES", flag = "fail-on-test-failures")]
    pub fail_on_failures: bool,
}

/// How a run is split over boxes.
#[derive(Clone, Debug, Section)]
#[section(name = "shard")]
#[non_exhaustive]
pub struct Shard {
    /// Most boxes of one sharded run; 0 is no limit.
    #[key(default = 0, merge = replace_when_present)]
    pub max_count: u32,
}
