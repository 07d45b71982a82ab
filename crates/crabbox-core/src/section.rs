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

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::duration;
use crate::error::{Error, Result};
use crate::secret::{Origin, Secret};
use crate::settings::SectionValues;
use crate::spec::{Egress, IsolationLevel, OperatingSystem, Persistence, WindowsMode};

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

    /// Checks what the type system cannot: unique names, defaults that parse, secrets without flags.
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
            if key.environment_only && key.environment.is_empty() {
                return Err(fault("a key without file needs a variable"));
            }
            if key.help.is_empty() {
                return Err(fault("key without help"));
            }
            if let Some(default) = key.default {
                key.kind
                    .parse(default)
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
    /// A repository file's number is an upper bound for whatever the other layers say.
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

/// A word that a key accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The word that is stored and shown.
    pub name: &'static str,
    /// Other accepted spellings.
    pub aliases: &'static [&'static str],
}

impl Choice {
    /// A word and its other spellings.
    pub const fn new(name: &'static str, aliases: &'static [&'static str]) -> Self {
        Self { name, aliases }
    }
}

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// `true` or `false`; also `yes`, `no`, `on`, `off`, `y`, `n`, `1`, `0`.
    Boolean,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// A Go duration longer than zero.
    Duration,
    /// A Go duration, zero included.
    DurationOrZero,
    /// A number of bytes, or a number with a unit such as `5GiB`.
    Bytes,
    /// A list of texts; comma-separated in variables and flags.
    List,
    /// Names with text values; `name=value`, comma-separated, in variables and flags.
    Map,
    /// One of some words, case ignored.
    Choice(&'static [Choice]),
    /// An API address; see [`Origin`].
    Origin,
    /// A path on this machine. A leading `~/` in a file means the home directory.
    Path,
    /// Structured data that its owner checks; JSON in variables and flags.
    Any,
}

impl Kind {
    /// Word for the reference page.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Boolean => "true or false",
            Self::Integer => "whole number",
            Self::Float => "number",
            Self::Duration | Self::DurationOrZero => "duration",
            Self::Bytes => "bytes",
            Self::List => "list",
            Self::Map => "mapping",
            Self::Choice(_) => "word",
            Self::Origin => "URL",
            Self::Path => "path",
            Self::Any => "structure",
        }
    }

    /// Reads a value written as text, as in a variable, a flag or a default.
    ///
    /// # Errors
    ///
    /// `Usage` with a message about the value alone; the caller puts the place before it.
    pub fn parse(self, text: &str) -> Result<SettingValue> {
        let trimmed = text.trim();
        let refuse =
            |what: &str, hint: String| Err(Error::usage(format!("{what}: `{}`", text.escape_debug())).with_hint(hint));
        Ok(match self {
            Self::Text => SettingValue::Text(text.to_owned()),
            Self::Path => SettingValue::Text(trimmed.to_owned()),
            Self::Boolean => match trimmed.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" | "y" => SettingValue::Boolean(true),
                "0" | "false" | "no" | "off" | "n" => SettingValue::Boolean(false),
                _ => return refuse("neither true nor false", "write `true` or `false`".to_owned()),
            },
            Self::Integer => match trimmed.parse() {
                Ok(number) => SettingValue::Integer(number),
                Err(_) => return refuse("not a whole number", "write digits only, such as `8`".to_owned()),
            },
            Self::Float => match trimmed.parse::<f64>() {
                Ok(number) if number.is_finite() => SettingValue::Float(number),
                _ => return refuse("not a number", "write a decimal number, such as `0.5`".to_owned()),
            },
            Self::Duration => SettingValue::Duration(duration::parse_positive(trimmed)?),
            Self::DurationOrZero => SettingValue::Duration(duration::parse(trimmed)?),
            Self::Bytes => match parse_bytes(trimmed) {
                Some(bytes) => SettingValue::Bytes(bytes),
                None => {
                    return refuse(
                        "not a number of bytes",
                        "write bytes, or a unit as in `5GiB`".to_owned(),
                    );
                }
            },
            Self::List => SettingValue::List(split_list(text)),
            Self::Map => {
                let mut map = BTreeMap::new();
                for entry in split_list(text) {
                    match entry.split_once('=') {
                        Some((name, value)) if !name.trim().is_empty() => {
                            map.insert(name.trim().to_owned(), value.trim().to_owned())
                        }
                        _ => return refuse("not name=value", "write `name=value`, comma-separated".to_owned()),
                    };
                }
                SettingValue::Map(map)
            }
            Self::Choice(choices) => match find_choice(choices, trimmed) {
                Some(name) => SettingValue::Text(name.to_owned()),
                None => {
                    let names = choices.iter().map(|choice| choice.name).collect::<Vec<_>>().join(", ");
                    return refuse("unknown value", format!("choose one of: {names}"));
                }
            },
            Self::Origin => SettingValue::Text(Origin::parse(text)?.to_string()),
            Self::Any => match serde_json::from_str(trimmed) {
                Ok(value) => SettingValue::Any(value),
                Err(_) => return refuse("not JSON", "write one JSON value".to_owned()),
            },
        })
    }
}

fn find_choice(choices: &[Choice], text: &str) -> Option<&'static str> {
    choices
        .iter()
        .find(|choice| {
            std::iter::once(&choice.name)
                .chain(choice.aliases)
                .any(|name| name.eq_ignore_ascii_case(text))
        })
        .map(|choice| choice.name)
}

fn split_list(text: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        if !entries.iter().any(|known| known == entry) {
            entries.push(entry.to_owned());
        }
    }
    entries
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A value that was read but not yet given its Rust type.
#[derive(Clone, PartialEq)]
pub enum SettingValue {
    /// [`Kind::Text`], [`Kind::Choice`], [`Kind::Origin`] and [`Kind::Path`].
    Text(String),
    /// [`Kind::Boolean`].
    Boolean(bool),
    /// [`Kind::Integer`].
    Integer(i64),
    /// [`Kind::Float`].
    Float(f64),
    /// [`Kind::Duration`].
    Duration(Duration),
    /// [`Kind::Bytes`].
    Bytes(u64),
    /// [`Kind::List`].
    List(Vec<String>),
    /// [`Kind::Map`].
    Map(BTreeMap<String, String>),
    /// [`Kind::Any`].
    Any(serde_json::Value),
}

impl SettingValue {
    /// Whether there is nothing in it: empty text, list, map or null. Such a value does not replace an earlier one.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Map(map) => map.is_empty(),
            Self::Any(value) => value.is_null(),
            Self::Boolean(_) | Self::Integer(_) | Self::Float(_) | Self::Duration(_) | Self::Bytes(_) => false,
        }
    }

    /// The value as JSON; durations in Go's form.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Boolean(value) => (*value).into(),
            Self::Integer(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Duration(value) => duration::format(*value).into(),
            Self::Bytes(value) => (*value).into(),
            Self::List(list) => list.clone().into(),
            Self::Map(map) => map
                .iter()
                .map(|(name, value)| (name.clone(), serde_json::Value::from(value.clone())))
                .collect(),
            Self::Any(value) => value.clone(),
        }
    }

    /// The value as one text, which [`Kind::parse`] reads back.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Duration(value) => duration::format(*value),
            Self::Bytes(value) => value.to_string(),
            Self::List(list) => list.join(","),
            Self::Map(map) => map
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(","),
            Self::Any(value) => value.to_string(),
        }
    }

    fn shape(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Boolean(_) => "true or false",
            Self::Integer(_) => "whole number",
            Self::Float(_) => "number",
            Self::Duration(_) => "duration",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) => "mapping",
            Self::Any(_) => "structure",
        }
    }
}

/// The shape only: a value may be a secret.
impl std::fmt::Debug for SettingValue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "<{}>", self.shape())
    }
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
    pub environment_only: bool,
    /// How layers combine.
    pub merge: Merge,
    /// Whether the flag adds to the list of the lower layers instead of replacing it.
    pub flag_appends: bool,
    /// What it means, from the doc comment.
    pub help: &'static str,
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
            environment_only: false,
            merge: Merge::Replace,
            flag_appends: false,
            help,
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
    pub const fn environment_only(mut self) -> Self {
        self.environment_only = true;
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

    /// The full dotted path of the key in a file.
    pub fn path(&self, section: &str) -> String {
        if section.is_empty() {
            self.name.to_owned()
        } else {
            format!("{section}.{}", self.name)
        }
    }
}

/// A Rust type that a key can have.
pub trait FromSetting: Sized {
    /// What the key holds.
    const KIND: Kind;
    /// Whether values of this type are secret.
    const SECRET: bool = false;

    /// Converts a value that was read as [`FromSetting::KIND`].
    ///
    /// # Errors
    ///
    /// `Usage` with a message about the value alone.
    fn from_setting(value: &SettingValue) -> Result<Self>;

    /// The value of a key that is not set and has no default. `None` makes the key required.
    fn when_absent() -> Option<Self> {
        None
    }
}

/// The error of a value of another shape than its key's.
pub fn wrong_shape(expected: &str, value: &SettingValue) -> Error {
    Error::usage(format!("expected {expected}, found {}", value.shape()))
}

macro_rules! from_setting {
    ($type:ty, $kind:expr, $pattern:pat => $result:expr $(, absent $absent:expr)? $(, secret $secret:literal)?) => {
        impl FromSetting for $type {
            const KIND: Kind = $kind;
            $(const SECRET: bool = $secret;)?

            fn from_setting(value: &SettingValue) -> Result<Self> {
                match value {
                    $pattern => $result,
                    other => Err(wrong_shape(Self::KIND.word(), other)),
                }
            }

            $(fn when_absent() -> Option<Self> {
                Some($absent)
            })?
        }
    };
}

from_setting!(String, Kind::Text, SettingValue::Text(text) => Ok(text.clone()));
from_setting!(bool, Kind::Boolean, SettingValue::Boolean(value) => Ok(*value), absent false);
from_setting!(f64, Kind::Float, SettingValue::Float(value) => Ok(*value));
from_setting!(Duration, Kind::Duration, SettingValue::Duration(value) => Ok(*value));
from_setting!(Vec<String>, Kind::List, SettingValue::List(list) => Ok(list.clone()), absent Self::new());
from_setting!(BTreeMap<String, String>, Kind::Map, SettingValue::Map(map) => Ok(map.clone()), absent Self::new());
from_setting!(PathBuf, Kind::Path, SettingValue::Text(text) => Ok(Self::from(text)));
from_setting!(Secret, Kind::Text, SettingValue::Text(text) => Ok(Self::new(text.trim())), secret true);
from_setting!(Origin, Kind::Origin, SettingValue::Text(text) => Self::parse(text));
from_setting!(serde_json::Value, Kind::Any, SettingValue::Any(value) => Ok(value.clone()));

macro_rules! from_integer {
    ($($type:ty),+) => {$(
        impl FromSetting for $type {
            const KIND: Kind = Kind::Integer;

            fn from_setting(value: &SettingValue) -> Result<Self> {
                let number = match value {
                    SettingValue::Integer(number) => i128::from(*number),
                    SettingValue::Bytes(number) => i128::from(*number),
                    other => return Err(wrong_shape(Self::KIND.word(), other)),
                };
                Self::try_from(number).map_err(|_| {
                    Error::usage(format!("number out of range: {number}"))
                        .with_hint(format!("write a number from {} to {}", Self::MIN, Self::MAX))
                })
            }
        }
    )+};
}

from_integer!(i64, i32, u64, u32, u16, u8, usize);

impl<T: FromSetting> FromSetting for Option<T> {
    const KIND: Kind = T::KIND;
    const SECRET: bool = T::SECRET;

    fn from_setting(value: &SettingValue) -> Result<Self> {
        if value.is_empty() {
            Ok(None)
        } else {
            T::from_setting(value).map(Some)
        }
    }

    fn when_absent() -> Option<Self> {
        Some(None)
    }
}

macro_rules! from_words {
    ($type:ty, [$(($name:literal, [$($alias:literal),*])),+ $(,)?]) => {
        impl FromSetting for $type {
            const KIND: Kind = Kind::Choice(&[$(Choice::new($name, &[$($alias),*])),+]);

            fn from_setting(value: &SettingValue) -> Result<Self> {
                match value {
                    SettingValue::Text(text) => text.parse(),
                    other => Err(wrong_shape(Self::KIND.word(), other)),
                }
            }
        }
    };
}

from_words!(
    OperatingSystem,
    [
        ("linux", ["ubuntu"]),
        ("macos", ["mac", "darwin", "osx"]),
        ("windows", ["win"]),
        ("worker-runtime", []),
    ]
);
from_words!(
    WindowsMode,
    [("normal", ["native", "powershell", "ps"]), ("wsl2", ["wsl"])]
);
from_words!(
    IsolationLevel,
    [
        ("none", []),
        ("process", []),
        ("container", []),
        ("userspace-kernel", []),
        ("vm", []),
        ("dedicated", []),
    ]
);
from_words!(Persistence, [("ephemeral", []), ("checkpoint", []), ("durable", [])]);
from_words!(Egress, [("none", []), ("allowlist", []), ("open", [])]);

/// Declares an enum of words that can be the type of a key; `|` adds other accepted spellings.
///
/// ```
/// crabbox_core::choices! {
///     /// Where a lid is.
///     pub enum Lid {
///         /// Up.
///         Open = "open" | "up",
///         /// Down.
///         Closed = "closed",
///     }
/// }
/// assert_eq!("UP".parse::<Lid>().unwrap(), Lid::Open);
/// ```
#[macro_export]
macro_rules! choices {
    ($(#[$doc:meta])* $vis:vis enum $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal $(| $alias:literal)*),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in files, flags and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::Error;

            fn from_str(text: &str) -> $crate::Result<Self> {
                let value = <Self as $crate::section::FromSetting>::KIND.parse(text)?;
                <Self as $crate::section::FromSetting>::from_setting(&value)
            }
        }

        impl $crate::section::FromSetting for $name {
            const KIND: $crate::section::Kind =
                $crate::section::Kind::Choice(&[$($crate::section::Choice::new($text, &[$($alias),*])),+]);

            fn from_setting(value: &$crate::section::SettingValue) -> $crate::Result<Self> {
                match value {
                    $($crate::section::SettingValue::Text(text) if text == $text => Ok(Self::$variant),)+
                    other => Err($crate::section::wrong_shape(Self::KIND.word(), other)),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_values() {
        let cases: &[(Kind, &str, SettingValue)] = &[
            (Kind::Text, " 24.04", SettingValue::Text(" 24.04".into())),
            (Kind::Boolean, " YES ", SettingValue::Boolean(true)),
            (Kind::Boolean, "off", SettingValue::Boolean(false)),
            (Kind::Integer, "-8", SettingValue::Integer(-8)),
            (Kind::Float, "1.5", SettingValue::Float(1.5)),
            (Kind::Duration, "90m", SettingValue::Duration(Duration::from_secs(5400))),
            (Kind::DurationOrZero, "0", SettingValue::Duration(Duration::ZERO)),
            (Kind::Bytes, "5 GiB", SettingValue::Bytes(5 << 30)),
            (Kind::Bytes, "12kb", SettingValue::Bytes(12_000)),
            (
                Kind::List,
                " a, b ,,a",
                SettingValue::List(vec!["a".into(), "b".into()]),
            ),
            (
                Kind::Map,
                "a=1, b = x=y",
                SettingValue::Map([("a".into(), "1".into()), ("b".into(), "x=y".into())].into()),
            ),
            (OperatingSystem::KIND, "Darwin", SettingValue::Text("macos".into())),
            (Kind::Origin, "https://H/", SettingValue::Text("https://h".into())),
            (Kind::Any, "[1]", SettingValue::Any(serde_json::json!([1]))),
        ];
        for (kind, text, value) in cases {
            assert!(kind.parse(text).unwrap() == *value, "{kind:?} {text}");
            let again = kind.parse(&value.to_text()).unwrap();
            assert!(again == *value, "{kind:?} {text} survives being written");
        }
    }

    #[test]
    fn bad_text_is_refused_with_a_cure() {
        let cases = [
            (Kind::Boolean, "maybe"),
            (Kind::Integer, "8.5"),
            (Kind::Integer, "0x10"),
            (Kind::Float, "NaN"),
            (Kind::Duration, "0s"),
            (Kind::Bytes, "5 parsecs"),
            (Kind::Bytes, "99999999999TiB"),
            (Kind::Map, "a"),
            (WindowsMode::KIND, "cygwin"),
            (Kind::Any, "{"),
        ];
        for (kind, text) in cases {
            let error = kind.parse(text).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2);
            assert!(error.to_string().ends_with(&format!("`{text}`")), "{error}");
        }
        assert_eq!(
            WindowsMode::KIND.parse("x").unwrap_err().hint(),
            Some("choose one of: normal, wsl2")
        );
    }

    #[test]
    fn words_of_the_specification_types_are_complete() {
        fn check<T: FromSetting + PartialEq + std::fmt::Debug + Copy>(all: &[T], word: fn(T) -> &'static str) {
            let Kind::Choice(choices) = T::KIND else {
                panic!("not words")
            };
            assert_eq!(
                choices.iter().map(|choice| choice.name).collect::<Vec<_>>(),
                all.iter().map(|value| word(*value)).collect::<Vec<_>>()
            );
            for value in all {
                assert_eq!(T::from_setting(&T::KIND.parse(word(*value)).unwrap()).unwrap(), *value);
            }
        }
        check(OperatingSystem::ALL, OperatingSystem::as_str);
        check(WindowsMode::ALL, WindowsMode::as_str);
        check(IsolationLevel::ALL, IsolationLevel::as_str);
        check(Persistence::ALL, Persistence::as_str);
        check(Egress::ALL, Egress::as_str);
    }

    #[test]
    fn numbers_must_fit_their_type() {
        assert_eq!(u16::from_setting(&SettingValue::Integer(22)).unwrap(), 22);
        let error = u16::from_setting(&SettingValue::Integer(70_000)).unwrap_err();
        assert_eq!(error.to_string(), "number out of range: 70000");
        assert_eq!(error.hint(), Some("write a number from 0 to 65535"));
    }

    #[test]
    fn values_hide_themselves_from_debug() {
        assert_eq!(format!("{:?}", SettingValue::Text("hunter2".into())), "<text>");
    }
}
