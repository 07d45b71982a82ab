//! Rust types that keys can have.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::kind::{Choice, Kind, SettingValue};
use crate::error::{Error, Result};
use crate::secret::{Origin, Secret};
use crate::spec::{Egress, IsolationLevel, OperatingSystem, Persistence, TtlEnforcement, WindowsMode};

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

/// Whether a value can become a `T`.
///
/// # Errors
///
/// Those of [`FromSetting::from_setting`].
pub fn fits<T: FromSetting>(value: &SettingValue) -> Result<()> {
    T::from_setting(value).map(drop)
}

/// The error of a value of another shape than its key's.
pub fn wrong_shape(expected: &str, value: &SettingValue) -> Error {
    Error::usage(format!("expected {expected}, found {}", value.shape())).with_hint(format!("write one {expected}"))
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
from_words!(TtlEnforcement, [("none", []), ("box", []), ("provider", [])]);
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
        check(TtlEnforcement::ALL, TtlEnforcement::as_str);
        check(Egress::ALL, Egress::as_str);
    }

    #[test]
    fn numbers_must_fit_their_type() {
        assert_eq!(u16::from_setting(&SettingValue::Integer(22)).unwrap(), 22);
        let error = u16::from_setting(&SettingValue::Integer(70_000)).unwrap_err();
        assert_eq!(error.to_string(), "number out of range: 70000");
        assert_eq!(error.hint(), Some("write a number from 0 to 65535"));
    }
}
