//! What a key holds, and how it is read from text.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::duration;
use crate::error::{Error, Result};
use crate::secret::Origin;

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
    /// Structured data that its owner checks; JSON in variables and flags, where any other text is a string.
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
            // Owners may accept a short form; what is not JSON reaches them as a string.
            Self::Any => SettingValue::Any(serde_json::from_str(trimmed).unwrap_or_else(|_| trimmed.into())),
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

    pub(super) fn shape(&self) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::section::FromSetting as _;
    use crate::spec::{OperatingSystem, WindowsMode};

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
            (Kind::Any, "a:/b", SettingValue::Any("a:/b".into())),
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
    fn values_hide_themselves_from_debug() {
        assert_eq!(format!("{:?}", SettingValue::Text("hunter2".into())), "<text>");
    }
}
