//! Reads every layer and merges them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_core::runtime::Environment;
use crabbox_core::section::{Kind, Merge, SectionSchema, SettingValue};
use crabbox_core::settings::{Layer, Provenance, SectionValues};
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use figment::value::Value;

use crate::config::Config;
use crate::file::FileReader;
use crate::layer::{FlagValue, SourceLayer, Warning, stack};
use crate::locate::{Platform, candidates};
use crate::registry::Registry;
use crate::yaml;

/// Reads configuration. Everything it depends on is given to it; it reads no globals.
///
/// ```
/// use crabbox_config::Loader;
/// use crabbox_core::runtime::Environment;
///
/// # let directory = std::env::temp_dir().join("crabbox-config-doc");
/// # std::fs::create_dir_all(&directory)?;
/// let environment = Environment::new([("CRABBOX_TTL", "2h")]);
/// let loaded = Loader::new(environment, &directory).load()?;
/// assert_eq!(loaded.config.selection.ttl.as_secs(), 7200);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    environment: Environment,
    working_directory: PathBuf,
    platform: Platform,
    providers: Vec<&'static SectionSchema>,
    flags: Vec<FlagValue>,
}

/// A file that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path.
    pub path: PathBuf,
    /// Whether it is the user's own or the repository's.
    pub layer: Layer,
    /// Whether it was there.
    pub found: bool,
}

/// Configuration, and what was noticed while it was read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The merged values.
    pub config: Config,
    /// Files that were looked for, weakest first.
    pub files: Vec<SourceFile>,
    /// What is probably not meant, in the order of the files.
    pub warnings: Vec<Warning>,
}

impl Loaded {
    /// Fails on any warning, as `config check` does. Errors were errors already when it was loaded.
    ///
    /// # Errors
    ///
    /// `Usage` with the first warning, its cure, and how many more there are.
    pub fn check(&self) -> Result<()> {
        let Some(first) = self.warnings.first() else {
            return Ok(());
        };
        let more = match self.warnings.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Err(Error::usage(first.to_string()).with_hint(format!("{}{more}", first.hint)))
    }
}

impl Loader {
    /// A loader for a directory, with the sections of no provider.
    pub fn new(environment: Environment, working_directory: impl Into<PathBuf>) -> Self {
        Self {
            environment,
            working_directory: working_directory.into(),
            platform: Platform::current(),
            providers: Vec::new(),
            flags: Vec::new(),
        }
    }

    /// Adds the sections of the providers of this build.
    #[must_use]
    pub fn providers(mut self, schemas: impl IntoIterator<Item = &'static SectionSchema>) -> Self {
        for schema in schemas {
            // A family of providers may share one section.
            if !self.providers.iter().any(|known| known.name == schema.name) {
                self.providers.push(schema);
            }
        }
        self
    }

    /// Adds a flag that was given.
    #[must_use]
    pub fn flag<V: Into<String>>(mut self, section: &str, key: &str, values: impl IntoIterator<Item = V>) -> Self {
        let values = values.into_iter().map(Into::into).collect();
        self.flags.push(FlagValue {
            section: section.to_owned(),
            key: key.to_owned(),
            values,
        });
        self
    }

    /// Adds flags that were given.
    #[must_use]
    pub fn flags(mut self, flags: impl IntoIterator<Item = FlagValue>) -> Self {
        self.flags.extend(flags);
        self
    }

    /// Takes another platform's rules for where files are.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Reads and merges every layer.
    ///
    /// # Errors
    ///
    /// `Usage` for a file that cannot be read, is not YAML or holds a value that does not fit, and for a variable or flag
    /// that does not fit. The message names file and line, variable or flag.
    pub fn load(&self) -> Result<Loaded> {
        let registry = Registry::new(&self.providers);
        let credentials: Vec<&'static str> = registry
            .places
            .iter()
            .flat_map(|place| place.schema.keys)
            .filter(|key| key.secret)
            .flat_map(|key| key.environment.iter().copied())
            .collect();
        let home = self.platform.home(&self.environment);
        let mut warnings = Vec::new();
        let mut files = Vec::new();
        let mut layers = vec![SourceLayer::defaults(&registry, home.as_deref())?];
        for candidate in candidates(&self.environment, self.platform, &self.working_directory) {
            let text = read(&candidate.path)?;
            files.push(SourceFile {
                path: candidate.path.clone(),
                layer: candidate.layer,
                found: text.is_some(),
            });
            let Some(text) = text else { continue };
            let document = parse(&candidate.path, &text)?;
            if let Some(line) = document.ignored_from {
                warnings.push(Warning {
                    file: Some(candidate.path.clone()),
                    line: Some(line),
                    message: "a second document is not read".to_owned(),
                    hint: "keep one document in the file".to_owned(),
                });
            }
            let reader = FileReader {
                registry: &registry,
                path: &candidate.path,
                layer: candidate.layer,
                home: home.as_deref(),
                credentials: &credentials,
                warnings: &mut warnings,
            };
            layers.push(reader.read(&document.root)?);
        }
        layers.push(SourceLayer::environment(&registry, &self.environment)?);
        layers.push(SourceLayer::flags(&registry, &self.flags)?);
        let sections = merge(&registry, &layers)?;
        let allow_from_environment = layers
            .iter()
            .filter(|layer| layer.layer == Layer::Environment)
            .flat_map(SourceLayer::values)
            .any(|(path, ..)| path == ["env", "allow"]);
        let config = Config::new(sections, &self.providers, allow_from_environment)?;
        Ok(Loaded {
            config,
            files,
            warnings,
        })
    }
}

/// The content of a file. `None` when it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let words = || format!("read config {}", path.display());
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error, path)),
    };
    if size > yaml::MAX_FILE_BYTES {
        return Err(Error::usage(format!(
            "{}: larger than {} bytes: {size}",
            words(),
            yaml::MAX_FILE_BYTES
        ))
        .with_hint("a config file is small; check that the path is right"));
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(unreadable(error, path)),
    }
}

fn unreadable(error: std::io::Error, path: &Path) -> Error {
    let result: std::result::Result<(), _> = Err(error);
    match result.or_error(ErrorKind::Usage, || format!("read config {}", path.display())) {
        Err(error) => error.with_hint("make it a UTF-8 text file that you can read, or remove it"),
        Ok(()) => Error::other("read config"),
    }
}

pub(crate) fn parse(path: &Path, text: &str) -> Result<yaml::Document> {
    // A byte order mark is no part of the first key.
    yaml::parse(text.trim_start_matches('\u{feff}')).map_err(|fault| {
        let error = Error::usage(format!(
            "parse config {}:{}: {}",
            path.display(),
            fault.line,
            fault.message
        ));
        match fault.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    })
}

/// Every section's values by the segments of its path in a file; names may hold dots.
pub(crate) type Sections = BTreeMap<Vec<String>, SectionValues>;

/// Lays the layers over each other and reads the values back by kind.
fn merge(registry: &Registry, layers: &[SourceLayer]) -> Result<Sections> {
    let figment = stack(layers);
    let root = figment
        .find_value("")
        .map_err(|error| Error::other("merge config").with_source(error.to_string()))?;
    let source = |value: &Value| -> usize {
        let index = |value: &Value| -> usize {
            let custom = figment
                .get_metadata(value.tag())
                .and_then(|metadata| metadata.source.as_ref()?.custom());
            custom.and_then(|index| index.parse().ok()).unwrap_or_default()
        };
        match value {
            Value::Array(_, items) => items.iter().map(index).max().unwrap_or_else(|| index(value)),
            Value::Dict(_, entries) => entries.values().map(index).max().unwrap_or_else(|| index(value)),
            value => index(value),
        }
    };
    let mut sections = Sections::new();
    for place in &registry.places {
        let mut found = Vec::new();
        instances(&root, &place.path, &mut Vec::new(), &mut found);
        for path in found {
            let mut values = SectionValues::defaults(place.schema)?.at(path.join("."));
            for key in place.schema.keys {
                let full: Vec<String> = path
                    .iter()
                    .cloned()
                    .chain(key.name.split('.').map(str::to_owned))
                    .collect();
                let mut found = match descend(&root, &full) {
                    None => None,
                    Some(value) => {
                        let source = &layers[source(value)];
                        let place = source.place(&full).unwrap_or_else(|| Arc::from(""));
                        let provenance = Provenance::new(source.layer, place);
                        let decoded = decode(value, key.kind, key.merge)
                            .map_err(|error| error.context(format!("{provenance}: {}", full.join("."))))?;
                        Some((decoded, provenance))
                    }
                };
                for (cap, place) in layers.iter().flat_map(|layer| layer.caps(&full)) {
                    if found.as_ref().is_none_or(|(value, _)| exceeds(value, cap)) {
                        found = Some((cap.clone(), Provenance::new(Layer::RepositoryFile, place.clone())));
                    }
                }
                if let Some((value, provenance)) = found {
                    values.set(key.name, value, provenance)?;
                }
            }
            sections.insert(path, values);
        }
    }
    Ok(sections)
}

/// Whether a value is beyond an upper bound of its own kind.
fn exceeds(value: &SettingValue, cap: &SettingValue) -> bool {
    match (value, cap) {
        (SettingValue::Integer(value), SettingValue::Integer(cap)) => value > cap,
        (SettingValue::Bytes(value), SettingValue::Bytes(cap)) => value > cap,
        (SettingValue::Duration(value), SettingValue::Duration(cap)) => value > cap,
        (SettingValue::Float(value), SettingValue::Float(cap)) => value > cap,
        _ => false,
    }
}

/// Every path that a section's pattern has in the merged tree.
fn instances(value: &Value, pattern: &[&'static str], path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let Some((first, rest)) = pattern.split_first() else {
        found.push(path.clone());
        return;
    };
    if !pattern.contains(&"*") {
        found.push(
            path.iter()
                .cloned()
                .chain(pattern.iter().map(|segment| (*segment).to_owned()))
                .collect(),
        );
        return;
    }
    let Some(entries) = value.as_dict() else { return };
    let named = entries.iter().filter(|(name, _)| *first == "*" || name == first);
    for (name, below) in named {
        path.push(name.clone());
        instances(below, rest, path, found);
        path.pop();
    }
}

fn descend<'tree>(value: &'tree Value, path: &[String]) -> Option<&'tree Value> {
    path.iter()
        .try_fold(value, |value, segment| value.as_dict()?.get(segment))
}

fn decode(value: &Value, kind: Kind, merge: Merge) -> Result<SettingValue> {
    Ok(match value {
        Value::Array(_, items) => {
            let mut list: Vec<String> = Vec::new();
            for text in items.iter().filter_map(Value::as_str) {
                if merge == Merge::Append || !list.iter().any(|known| known == text) {
                    list.push(text.to_owned());
                }
            }
            SettingValue::List(list)
        }
        Value::Dict(_, entries) => {
            let texts = entries
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
            SettingValue::Map(texts.collect())
        }
        other => kind.parse(other.as_str().unwrap_or_default())?,
    })
}
