//! One declaration per config key.
//!
//! A section is a struct with `#[derive(Section)]`. From that one declaration come the file and environment readers, the
//! flags, `config show`, redaction, the trust filter and the reference page.
//!
//! ```
//! use crabbox_core::Section;
//! use crabbox_core::secret::{Origin, Secret};
//! use crabbox_core::settings::Settings;
//!
//! #[derive(Clone, Debug, Section)]
//! #[section(name = "acme")]
//! struct AcmeConfig {
//!     /// Region slug, such as `eu1`.
//!     #[key(env = "CRABBOX_ACME_REGION", flag = "acme-region", default = "eu1")]
//!     region: String,
//!     /// Control-plane origin.
//!     #[key(env = "CRABBOX_ACME_API_URL", default = "https://api.acme.test", trust = operator)]
//!     api_url: Origin,
//!     /// API token.
//!     #[key(env = ["CRABBOX_ACME_TOKEN", "ACME_TOKEN"], secret)]
//!     token: Option<Secret>,
//! }
//!
//! let settings = Settings::from_pairs(AcmeConfig::SCHEMA, &[("region", "us2")])?;
//! let config: AcmeConfig = settings.section()?;
//! assert_eq!(config.region, "us2");
//! assert_eq!(config.api_url.as_str(), "https://api.acme.test");
//! # Ok::<(), crabbox_core::Error>(())
//! ```
//!
//! A secret is never a flag, since arguments are visible to other processes:
//!
//! ```compile_fail
//! #[derive(crabbox_core::Section)]
//! #[section(name = "acme")]
//! struct AcmeConfig {
//!     /// API token.
//!     #[key(flag = "acme-token")]
//!     token: Option<crabbox_core::secret::Secret>,
//! }
//! const _: &crabbox_core::section::SectionSchema = <AcmeConfig as crabbox_core::section::Section>::SCHEMA;
//! ```
//!
//! And every key says what it means:
//!
//! ```compile_fail
//! #[derive(crabbox_core::Section)]
//! #[section(name = "acme")]
//! struct AcmeConfig {
//!     #[key(flag = "acme-region")]
//!     region: String,
//! }
//! ```

mod convert;
mod kind;

use std::collections::BTreeSet;

pub use convert::{FromSetting, fits, wrong_shape};
pub use kind::{Choice, Kind, SettingValue};

use crate::error::{Error, Result};
use crate::settings::SectionValues;

/// A typed config section.
pub trait Section: Sized {
    /// Every key, as data.
    const SCHEMA: &'static SectionSchema;

    /// Builds the type from merged values.
    ///
    /// # Errors
    ///
    /// `Usage`, naming the place a value came from, when it does not fit or a required one is missing.
    fn from_values(values: &SectionValues) -> Result<Self>;
}

/// Names of keys that choose what runs on this machine, or where it finds credentials.
const LOCAL_PROGRAMS: [&str; 11] = [
    "binary",
    "bridgeCommand",
    "cli",
    "cliPath",
    "ghPath",
    "helperPath",
    "jailer",
    "keychain",
    "kubeconfig",
    "kubectl",
    "virtctl",
];

/// The keys of one section.
#[derive(Debug)]
pub struct SectionSchema {
    /// Where it stands in a file: a top-level key, empty for the top level itself, or a dotted path in which `*` stands
    /// for any name.
    pub name: &'static str,
    /// What the section is for.
    pub help: &'static str,
    /// Its keys, in the order of declaration.
    pub keys: &'static [KeySchema],
}

impl SectionSchema {
    /// A section without keys, for a provider that needs no settings.
    pub const fn empty(name: &'static str) -> Self {
        Self {
            name,
            help: "",
            keys: &[],
        }
    }

    /// A key by its name.
    pub fn key(&self, name: &str) -> Option<&'static KeySchema> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Checks what the type system cannot: unique names, defaults that parse, secrets without flags, local programs that only the
    /// operator chooses.
    ///
    /// # Errors
    ///
    /// `Other`, naming the key. A test per section calls this.
    pub fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for key in self.keys {
            let fault = |what: &str| Error::other(format!("{what}: `{}`", key.path(self.name)));
            for name in std::iter::once(&key.name).chain(key.aliases) {
                if !names.insert(*name) {
                    return Err(fault("name declared twice"));
                }
            }
            if key.secret && (key.flag.is_some() || key.default.is_some()) {
                return Err(fault("a secret has neither flag nor default"));
            }
            if key.no_file && key.environment.is_empty() && key.flag.is_none() {
                return Err(fault("a key that no file holds needs a variable or a flag"));
            }
            let last = key.name.rsplit('.').next().unwrap_or(key.name);
            if LOCAL_PROGRAMS.contains(&last) && key.trust != Trust::Operator {
                return Err(fault("a local program or credential store is the operator's to choose"));
            }
            if key.help.is_empty() {
                return Err(fault("key without help"));
            }
            if let Some(default) = key.default {
                key.kind
                    .parse(default)
                    .and_then(|value| (key.validate)(&value))
                    .map_err(|error| error.context(format!("default of {}", key.path(self.name))))?;
            }
        }
        Ok(())
    }
}

/// Who may set a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Every layer.
    Anyone,
    /// Not a repository file: the key chooses a local program, a credential store or where a credential goes.
    Operator,
    /// A repository file may only turn it on.
    OnlyTrue,
    /// A repository file may only turn it off.
    OnlyFalse,
    /// A repository file's number, size or time is an upper bound for what the other layers and the default say. It
    /// never raises them.
    AtMost,
}

/// How a later layer meets an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// A later value that is not empty takes its place. Maps merge per key.
    Replace,
    /// Takes its place even when it is an empty list.
    ReplaceWhenPresent,
    /// List entries are appended, order and repetition kept.
    Append,
    /// List entries are appended unless already there.
    AppendUnique,
}

/// One key, as data.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KeySchema {
    /// Name below its section, dotted when nested.
    pub name: &'static str,
    /// Other names below the section, or, with a leading `/`, from the top of the file. In one file the name wins.
    pub aliases: &'static [&'static str],
    /// What it holds.
    pub kind: Kind,
    /// Variables that set it, the first that is set wins.
    pub environment: &'static [&'static str],
    /// Flag that sets it, without dashes.
    pub flag: Option<&'static str>,
    /// Default, as text.
    pub default: Option<&'static str>,
    /// Who may set it.
    pub trust: Trust,
    /// Never shown, never a flag.
    pub secret: bool,
    /// Receives the section's secrets, so a repository file may not choose it for an operator's credential.
    pub destination: bool,
    /// Has no place in files.
    pub no_file: bool,
    /// How layers combine.
    pub merge: Merge,
    /// Whether the flag adds to the list of the lower layers instead of replacing it.
    pub flag_appends: bool,
    /// What it means, from the doc comment.
    pub help: &'static str,
    /// Checks a value against the Rust type of the key.
    pub validate: fn(&SettingValue) -> Result<()>,
}

impl KeySchema {
    /// A key that anyone may set, without variable, flag or default.
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            aliases: &[],
            kind,
            environment: &[],
            flag: None,
            default: None,
            trust: Trust::Anyone,
            secret: false,
            destination: matches!(kind, Kind::Origin),
            no_file: false,
            merge: Merge::Replace,
            flag_appends: false,
            help,
            validate: accept,
        }
    }

    /// Sets other names.
    #[must_use]
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Sets the variables.
    #[must_use]
    pub const fn environment(mut self, names: &'static [&'static str]) -> Self {
        self.environment = names;
        self
    }

    /// Sets the flag.
    #[must_use]
    pub const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    /// Sets the default.
    #[must_use]
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    /// Sets who may set it.
    #[must_use]
    pub const fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Sets whether it is a secret.
    #[must_use]
    pub const fn secret(mut self, secret: bool) -> Self {
        self.secret = secret;
        self
    }

    /// Marks it as receiving the section's secrets.
    #[must_use]
    pub const fn destination(mut self) -> Self {
        self.destination = true;
        self
    }

    /// Keeps it out of files.
    #[must_use]
    pub const fn no_file(mut self) -> Self {
        self.no_file = true;
        self
    }

    /// Sets how layers combine.
    #[must_use]
    pub const fn merge(mut self, merge: Merge) -> Self {
        self.merge = merge;
        self
    }

    /// Makes the flag add to the list.
    #[must_use]
    pub const fn flag_appends(mut self) -> Self {
        self.flag_appends = true;
        self
    }

    /// Sets the check against the key's Rust type; see [`fits`].
    #[must_use]
    pub const fn validate(mut self, validate: fn(&SettingValue) -> Result<()>) -> Self {
        self.validate = validate;
        self
    }

    /// The full dotted path of the key in a file.
    pub fn path(&self, section: &str) -> String {
        if section.is_empty() {
            self.name.to_owned()
        } else {
            format!("{section}.{}", self.name)
        }
    }
}

/// A key without a Rust type takes whatever has its kind.
fn accept(_: &SettingValue) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsound_declarations_are_named() {
        const fn key(name: &'static str) -> KeySchema {
            KeySchema::new(name, Kind::Text, "Help.")
        }
        const SCHEMAS: &[(&[KeySchema], &str)] = &[
            (&[key("a"), key("b").aliases(&["a"])], "name declared twice: `acme.b`"),
            (
                &[key("a").secret(true).flag("a")],
                "a secret has neither flag nor default: `acme.a`",
            ),
            (
                &[key("a").no_file()],
                "a key that no file holds needs a variable or a flag: `acme.a`",
            ),
            (
                &[key("x.cliPath")],
                "a local program or credential store is the operator's to choose: `acme.x.cliPath`",
            ),
            (&[KeySchema::new("a", Kind::Text, "")], "key without help: `acme.a`"),
            (
                &[KeySchema::new("a", Kind::Integer, "Help.").default("x")],
                "default of acme.a: not a whole number: `x`",
            ),
        ];
        for (keys, message) in SCHEMAS {
            let schema = SectionSchema {
                name: "acme",
                help: "",
                keys,
            };
            assert_eq!(schema.check().unwrap_err().to_string(), *message);
        }
        const SOUND: SectionSchema = SectionSchema {
            name: "acme",
            help: "",
            keys: &[key("cliPath").trust(Trust::Operator)],
        };
        SOUND.check().unwrap();
    }
}
