//! Files, variables and flags as layers of one figment.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_core::runtime::Environment;
use crabbox_core::section::{KeySchema, Kind, Merge, SettingValue};
use crabbox_core::settings::Layer;
use crabbox_core::{Error, Result};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Source};

use crate::registry::{Branch, Registry, is_foreign_section, nearest};
use crate::trust::{Verdict, judge};
use crate::yaml::{Content, Entry as YamlEntry, Node, integer};

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
}

impl SourceLayer {
    fn new(layer: Layer, name: &'static str) -> Self {
        Self {
            layer,
            name,
            entries: Vec::new(),
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

    fn push(&mut self, path: Vec<String>, key: &'static KeySchema, value: SettingValue, place: Arc<str>, rank: usize) {
        // Nothing set cannot clear a lower layer, unless the key says that presence counts.
        if is_unset(&value) && key.merge != Merge::ReplaceWhenPresent {
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

    /// Puts entries in the order in which they count: the name of a key after its aliases, except where all add up.
    fn settle(&mut self) {
        self.entries.sort_by_key(|entry| {
            if entry.appends {
                entry.rank
            } else {
                usize::MAX - entry.rank
            }
        });
    }

    /// The declarations' defaults.
    pub(crate) fn defaults(registry: &Registry) -> Result<Self> {
        let mut layer = Self::new(Layer::Default, "defaults");
        for place in registry.places.iter().filter(|place| !place.path.contains(&"*")) {
            for key in place.schema.keys {
                if let Some(default) = key.default {
                    let value = key
                        .kind
                        .parse(default)
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
                    key.kind
                        .parse(text)
                        .map_err(|error| hide(error, key, text).context(name))?
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
            let value = key
                .kind
                .parse(&text)
                .map_err(|error| hide(error, key, &text).context(&name))?;
            layer.push(path_of(&place.path, key), key, value, Arc::from(name), 0);
        }
        Ok(layer)
    }
}

/// Reads one file.
pub(crate) struct FileReader<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) path: &'a Path,
    pub(crate) layer: Layer,
    pub(crate) home: Option<&'a Path>,
    /// Secret variables of the providers of this build.
    pub(crate) credentials: &'a [&'static str],
    pub(crate) warnings: &'a mut Vec<Warning>,
}

impl FileReader<'_> {
    /// The layer that a file's content makes.
    pub(crate) fn read(mut self, root: &Node) -> Result<SourceLayer> {
        let name = if self.layer == Layer::UserFile {
            "user file"
        } else {
            "repository file"
        };
        let mut layer = SourceLayer::new(self.layer, name);
        let registry = self.registry;
        match &root.content {
            Content::Null => {}
            Content::Mapping(entries) => {
                self.mapping(entries, &registry.root, &mut Vec::new(), &mut Vec::new(), &mut layer)?
            }
            _ => {
                let error = Error::usage(format!("expected a mapping, found {}", root.shape()));
                return Err(self.fault(error.with_hint("write `key: value` lines"), root.line));
            }
        }
        layer.settle();
        Ok(layer)
    }

    fn mapping(
        &mut self,
        entries: &[YamlEntry],
        branch: &Branch,
        path: &mut Vec<String>,
        names: &mut Vec<String>,
        layer: &mut SourceLayer,
    ) -> Result<()> {
        for entry in entries {
            path.push(entry.key.clone());
            let (child, named) = match branch.children.get(entry.key.as_str()) {
                Some(child) => (Some(child), false),
                None => (branch.any.as_deref(), true),
            };
            match child {
                Some(child) => {
                    if named {
                        names.push(entry.key.clone());
                    }
                    self.entry(entry, child, path, names, layer)?;
                    if named {
                        names.pop();
                    }
                }
                None => self.unknown(entry, branch, path),
            }
            path.pop();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &YamlEntry,
        branch: &Branch,
        path: &mut Vec<String>,
        names: &mut Vec<String>,
        layer: &mut SourceLayer,
    ) -> Result<()> {
        let Some(leaf) = &branch.leaf else {
            return match &entry.value.content {
                Content::Null => Ok(()),
                Content::Mapping(entries) => self.mapping(entries, branch, path, names, layer),
                _ => {
                    let error = Error::usage(format!(
                        "{}: expected a mapping, found {}",
                        path.join("."),
                        entry.value.shape()
                    ));
                    let below: Vec<&str> = branch.children.keys().copied().take(4).collect();
                    let hint = if below.is_empty() {
                        "put named blocks below it".to_owned()
                    } else {
                        format!("put keys below it, such as {}", below.join(", "))
                    };
                    Err(self.fault(error.with_hint(hint), entry.line))
                }
            };
        };
        // A mapping of names may have declared keys among the names.
        let mut own = entry.value.clone();
        if let (Content::Mapping(entries), false) = (&mut own.content, branch.children.is_empty()) {
            let (declared, rest): (Vec<_>, Vec<_>) = entries
                .drain(..)
                .partition(|entry| branch.children.contains_key(entry.key.as_str()));
            *entries = rest;
            self.mapping(&declared, branch, path, names, layer)?;
        }
        let canonical = leaf.canonical(names);
        let value = convert(leaf.key, &own, self.home)
            .map_err(|error| self.fault(error.context(path.join(".")), entry.line))?;
        let Some(value) = value else { return Ok(()) };
        let value = if self.layer == Layer::RepositoryFile {
            match judge(&canonical, leaf.key, value, self.credentials) {
                Verdict::Accept(value) => value,
                Verdict::Trim(value, refused) => {
                    let message = format!(
                        "{}: a repository file cannot forward credentials: `{}`",
                        path.join("."),
                        refused.join(", ")
                    );
                    self.warn(
                        entry.line,
                        message,
                        "name them in your own config file, in `CRABBOX_ENV_ALLOW`, or with `--allow-env`".to_owned(),
                    );
                    value
                }
                Verdict::Refuse => {
                    let message = format!("a repository file cannot set this key: `{}`", path.join("."));
                    self.warn(entry.line, message, operator_cure(leaf.key));
                    return Ok(());
                }
            }
        } else {
            value
        };
        let place = Arc::from(format!("{}:{}", self.path.display(), entry.line));
        layer.push(canonical, leaf.key, value, place, leaf.rank);
        Ok(())
    }

    fn unknown(&mut self, entry: &YamlEntry, branch: &Branch, path: &[String]) {
        let top_level = path.len() == 1;
        // Blocks whose names start with `x-` only hold anchors.
        if top_level && (is_foreign_section(&entry.key) || entry.key.starts_with("x-")) {
            return;
        }
        let foreign = if top_level {
            crate::known::PROVIDER_SECTIONS
        } else {
            &[]
        };
        let known = branch.children.keys().chain(foreign).copied();
        let hint = match nearest(&entry.key, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "see the config reference for the keys that exist".to_owned(),
        };
        self.warn(
            entry.line,
            format!("unknown key: `{}`", path.join(".").escape_debug()),
            hint,
        );
    }

    fn warn(&mut self, line: usize, message: String, hint: String) {
        self.warnings.push(Warning {
            file: Some(self.path.to_owned()),
            line: Some(line),
            message,
            hint,
        });
    }

    fn fault(&self, error: Error, line: usize) -> Error {
        error.context(format!("parse config {}:{line}", self.path.display()))
    }
}

fn operator_cure(key: &KeySchema) -> String {
    let variables = key.environment.iter().map(|name| format!(", in `{name}`"));
    let flag = key.flag.map(|flag| format!(", with `--{flag}`"));
    format!(
        "set it in your own config file{}",
        variables.chain(flag).collect::<String>()
    )
}

/// Gives a file's value the kind that its key declares. `None` when nothing is set.
fn convert(key: &KeySchema, node: &Node, home: Option<&Path>) -> Result<Option<SettingValue>> {
    let expected = |what: &str| {
        let hint = match key.kind {
            Kind::List => "write a list, such as `[a, b]`".to_owned(),
            Kind::Map => "write `name: value` lines below it".to_owned(),
            kind => format!("write one {}", kind.word()),
        };
        Error::usage(format!("expected {what}, found {}", node.shape())).with_hint(hint)
    };
    let value = match (key.kind, &node.content) {
        (_, Content::Null) => return Ok(None),
        (Kind::Any, _) => SettingValue::Any(node.to_json()),
        (Kind::List, Content::Sequence(items)) => {
            let mut list: Vec<String> = Vec::new();
            for item in items {
                let text = match &item.content {
                    Content::Scalar { text, .. } => text.trim(),
                    Content::Null => continue,
                    _ => return Err(expected("a list of texts")),
                };
                if !text.is_empty() && (key.merge == Merge::Append || !list.iter().any(|known| known == text)) {
                    list.push(text.to_owned());
                }
            }
            SettingValue::List(list)
        }
        (Kind::List, Content::Scalar { text, .. }) if !text.trim().is_empty() => {
            SettingValue::List(vec![text.trim().to_owned()])
        }
        (Kind::List, Content::Scalar { .. }) => return Ok(None),
        (Kind::Map, Content::Mapping(entries)) => {
            let mut map = BTreeMap::new();
            for entry in entries {
                match &entry.value.content {
                    Content::Scalar { text, .. } => map.insert(entry.key.clone(), text.clone()),
                    Content::Null => map.insert(entry.key.clone(), String::new()),
                    _ => return Err(expected("names with text values").context(&entry.key)),
                };
            }
            SettingValue::Map(map)
        }
        (Kind::Boolean | Kind::Integer | Kind::Float, Content::Scalar { plain: false, text }) if !text.is_empty() => {
            return Err(
                Error::usage(format!("expected {}, found quoted text", key.kind.word())).with_hint("remove the quotes")
            );
        }
        (kind, Content::Scalar { text, .. }) => {
            if text.trim().is_empty() {
                return Ok(None);
            }
            match kind {
                Kind::Integer if integer(text).is_some() => SettingValue::Integer(integer(text).unwrap_or_default()),
                Kind::Path => SettingValue::Text(expand_home(text.trim(), home)),
                kind => kind.parse(text).map_err(|error| hide(error, key, text))?,
            }
        }
        (Kind::List, _) => return Err(expected("a list")),
        (Kind::Map, _) => return Err(expected("a mapping")),
        (kind, _) => return Err(expected(kind.word())),
    };
    Ok(Some(value))
}

/// Takes a secret out of an error that repeats what was written.
fn hide(error: Error, key: &KeySchema, text: &str) -> Error {
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

fn is_unset(value: &SettingValue) -> bool {
    match value {
        SettingValue::Integer(0) | SettingValue::Bytes(0) => true,
        SettingValue::Float(number) => *number == 0.0,
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
