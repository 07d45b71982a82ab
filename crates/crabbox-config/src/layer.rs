//! Files, variables and flags as layers of one figment.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_core::runtime::Environment;
use crabbox_core::section::{KeySchema, Kind, Merge, SettingValue};
use crabbox_core::settings::Layer;
use crabbox_core::{Error, Result};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Source};

use crate::registry::Registry;

/// Something in the configuration that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The file, unless it is about a variable or flag.
    pub file: Option<PathBuf>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// One line, lower case, value last.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(formatter, "{}:{line}: {}", file.display(), self.message),
            (Some(file), None) => write!(formatter, "{}: {}", file.display(), self.message),
            _ => formatter.write_str(&self.message),
        }
    }
}

/// A flag that was given.
#[derive(Clone, Debug)]
pub struct FlagValue {
    /// Section of the key; empty for the top level.
    pub section: String,
    /// Name of the key.
    pub key: String,
    /// Its values, more than one when the flag was repeated.
    pub values: Vec<String>,
}

/// A value that a layer sets.
#[derive(Debug)]
struct Entry {
    path: Vec<String>,
    key: &'static KeySchema,
    value: SettingValue,
    place: Arc<str>,
    rank: usize,
    appends: bool,
}

/// What one source sets.
#[derive(Debug)]
pub(crate) struct SourceLayer {
    pub(crate) layer: Layer,
    name: &'static str,
    entries: Vec<Entry>,
    /// Upper bounds, which never raise what another layer says.
    caps: Vec<(Vec<String>, SettingValue, Arc<str>)>,
}

impl SourceLayer {
    pub(crate) fn new(layer: Layer, name: &'static str) -> Self {
        Self {
            layer,
            name,
            entries: Vec::new(),
            caps: Vec::new(),
        }
    }

    /// Where the layer set a path.
    pub(crate) fn place(&self, path: &[String]) -> Option<Arc<str>> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.path == path)
            .map(|entry| entry.place.clone())
    }

    /// Values with their paths and places.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&[String], &'static KeySchema, &SettingValue, &Arc<str>)> {
        self.entries
            .iter()
            .map(|entry| (entry.path.as_slice(), entry.key, &entry.value, &entry.place))
    }

    pub(crate) fn push(
        &mut self,
        path: Vec<String>,
        key: &'static KeySchema,
        value: SettingValue,
        place: Arc<str>,
        rank: usize,
    ) {
        // Nothing set cannot clear a lower layer, unless the key says that presence counts.
        if is_unset(&value, self.layer) && key.merge != Merge::ReplaceWhenPresent {
            return;
        }
        let appends =
            matches!(key.merge, Merge::Append | Merge::AppendUnique) || (key.flag_appends && self.layer == Layer::Flag);
        self.entries.push(Entry {
            path,
            key,
            value,
            place,
            rank,
            appends,
        });
    }

    /// Bounds a value instead of setting it.
    pub(crate) fn cap(&mut self, path: Vec<String>, value: SettingValue, place: Arc<str>) {
        self.caps.push((path, value, place));
    }

    /// The bounds of a path.
    pub(crate) fn caps<'layer>(
        &'layer self,
        path: &'layer [String],
    ) -> impl Iterator<Item = (&'layer SettingValue, &'layer Arc<str>)> {
        self.caps
            .iter()
            .filter(move |(known, ..)| known == path)
            .map(|(_, value, place)| (value, place))
    }

    /// Puts entries in the order in which they count: the name of a key after its aliases, except where all add up.
    pub(crate) fn settle(&mut self) {
        self.entries.sort_by_key(|entry| {
            if entry.appends {
                entry.rank
            } else {
                usize::MAX - entry.rank
            }
        });
    }

    /// The declarations' defaults.
    pub(crate) fn defaults(registry: &Registry, home: Option<&Path>) -> Result<Self> {
        let mut layer = Self::new(Layer::Default, "defaults");
        for place in registry.places.iter().filter(|place| !place.path.contains(&"*")) {
            for key in place.schema.keys {
                if let Some(default) = key.default {
                    let default = if key.kind == Kind::Path {
                        expand_home(default, home)
                    } else {
                        default.to_owned()
                    };
                    let value = key
                        .kind
                        .parse(&default)
                        .map_err(|error| error.context(key.path(place.schema.name)))?;
                    layer.push(path_of(&place.path, key), key, value, Arc::from(""), 0);
                }
            }
        }
        Ok(layer)
    }

    /// The variables.
    pub(crate) fn environment(registry: &Registry, environment: &Environment) -> Result<Self> {
        let mut layer = Self::new(Layer::Environment, "environment");
        let variables: HashMap<&str, &str> = environment.text().collect();
        for place in registry.places.iter().filter(|place| !place.path.contains(&"*")) {
            for key in place.schema.keys {
                let presence = key.merge == Merge::ReplaceWhenPresent && matches!(key.kind, Kind::List | Kind::Any);
                let set = key.environment.iter().find_map(|name| {
                    let text = variables.get(name)?;
                    (presence || !text.trim().is_empty()).then_some((*name, *text))
                });
                let Some((name, text)) = set else { continue };
                let value = if presence && (text.trim().is_empty() || text.trim().eq_ignore_ascii_case("none")) {
                    cleared(key.kind)
                } else {
                    read(key, text).map_err(|error| error.context(name))?
                };
                layer.push(path_of(&place.path, key), key, value, Arc::from(name), 0);
            }
        }
        Ok(layer)
    }

    /// The flags.
    pub(crate) fn flags(registry: &Registry, flags: &[FlagValue]) -> Result<Self> {
        let mut layer = Self::new(Layer::Flag, "flags");
        for flag in flags {
            let declared = registry.places.iter().find(|place| place.schema.name == flag.section);
            let declared = declared.and_then(|place| Some((place, place.schema.key(&flag.key)?)));
            let Some((place, key)) = declared else {
                return Err(Error::other(format!("no such key: `{}.{}`", flag.section, flag.key)));
            };
            let name = key
                .flag
                .map_or_else(|| key.path(&flag.section), |flag| format!("--{flag}"));
            let text = match key.kind {
                Kind::List | Kind::Map => flag.values.join(","),
                _ => flag.values.last().cloned().unwrap_or_default(),
            };
            let value = read(key, &text).map_err(|error| error.context(&name))?;
            layer.push(path_of(&place.path, key), key, value, Arc::from(name), 0);
        }
        Ok(layer)
    }
}

/// Reads a text as its key declares.
fn read(key: &KeySchema, text: &str) -> Result<SettingValue> {
    let value = key.kind.parse(text).map_err(|error| hide(error, key, text))?;
    (key.validate)(&value)?;
    Ok(value)
}

/// Takes a secret out of an error that repeats what was written.
pub(crate) fn hide(error: Error, key: &KeySchema, text: &str) -> Error {
    if !key.secret || text.is_empty() {
        return error;
    }
    let hidden = Error::new(error.kind(), format!("not a {}", key.kind.word()));
    match error.hint() {
        Some(hint) if !hint.contains(text) => hidden.with_hint(hint.to_owned()),
        _ => hidden,
    }
}

pub(crate) fn expand_home(text: &str, home: Option<&Path>) -> String {
    match (text.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.display().to_string(),
        (Some(rest), Some(home)) if rest.starts_with(['/', '\\']) => home.join(&rest[1..]).display().to_string(),
        _ => text.to_owned(),
    }
}

/// Zero in a file or variable stands for a value that was never given; on the command line it was typed.
fn is_unset(value: &SettingValue, layer: Layer) -> bool {
    match value {
        SettingValue::Integer(0) | SettingValue::Bytes(0) => layer != Layer::Flag,
        SettingValue::Float(number) => *number == 0.0 && layer != Layer::Flag,
        other => other.is_empty(),
    }
}

fn cleared(kind: Kind) -> SettingValue {
    if kind == Kind::List {
        SettingValue::List(Vec::new())
    } else {
        SettingValue::Any(serde_json::Value::Array(Vec::new()))
    }
}

fn path_of(place: &[&str], key: &KeySchema) -> Vec<String> {
    place
        .iter()
        .copied()
        .chain(key.name.split('.'))
        .map(str::to_owned)
        .collect()
}

/// One layer's entries that replace, or those that append, as a figment provider.
///
/// Values enter as texts, lists of texts and mappings of texts: the declared kind reads them back. That keeps `24.04` a
/// text where a text is declared.
struct Part<'a> {
    source: &'a SourceLayer,
    index: usize,
    appends: bool,
}

impl figment::Provider for Part<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::from(self.source.name, Source::Custom(self.index.to_string()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut root = Dict::new();
        for entry in self.source.entries.iter().filter(|entry| entry.appends == self.appends) {
            insert(&mut root, &entry.path, encode(&entry.value), self.appends);
        }
        Ok(Map::from([(Profile::Default, root)]))
    }
}

fn encode(value: &SettingValue) -> Value {
    match value {
        SettingValue::List(list) => Value::from(list.clone()),
        SettingValue::Map(map) => Value::from(map.clone()),
        other => Value::from(other.to_text()),
    }
}

fn insert(dict: &mut Dict, path: &[String], value: Value, appends: bool) {
    match path {
        [] => {}
        [last] => match (dict.get_mut(last), value) {
            (Some(Value::Array(_, known)), Value::Array(_, more)) if appends => known.extend(more),
            (_, value) => {
                dict.insert(last.clone(), value);
            }
        },
        [first, rest @ ..] => {
            if !matches!(dict.get(first), Some(Value::Dict(..))) {
                dict.insert(first.clone(), Value::Dict(Tag::Default, Dict::new()));
            }
            if let Some(Value::Dict(_, below)) = dict.get_mut(first) {
                insert(below, rest, value, appends);
            }
        }
    }
}

/// Puts layers over each other, weakest first. Entry `index` of a layer's metadata leads back to the layer.
pub(crate) fn stack(layers: &[SourceLayer]) -> figment::Figment {
    layers
        .iter()
        .enumerate()
        .fold(figment::Figment::new(), |figment, (index, source)| {
            figment
                .merge(Part {
                    source,
                    index,
                    appends: false,
                })
                .admerge(Part {
                    source,
                    index,
                    appends: true,
                })
        })
}
