//! Merged configuration, each value with where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::section::{FromSetting, KeySchema, Section, SectionSchema, SettingValue};

/// Which layer set a value, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The declaration.
    Default,
    /// The user's own file, or a file that `CRABBOX_CONFIG` names outside the repository.
    UserFile,
    /// A file inside the repository: trusted to choose commands, not to redirect credentials.
    RepositoryFile,
    /// A variable.
    Environment,
    /// The command line.
    Flag,
}

impl Layer {
    /// The word in JSON and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::UserFile => "user_file",
            Self::RepositoryFile => "repository_file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }

    /// Whether the operator of this machine set it.
    pub const fn is_operator(self) -> bool {
        matches!(self, Self::UserFile | Self::Environment | Self::Flag)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The layer.
    pub layer: Layer,
    /// Exact place: `path:line`, a variable, or a flag with its dashes. Empty for defaults.
    pub place: Arc<str>,
}

impl Provenance {
    /// A place in a layer.
    pub fn new(layer: Layer, place: impl Into<Arc<str>>) -> Self {
        Self {
            layer,
            place: place.into(),
        }
    }

    /// A declaration's default.
    pub fn default_value() -> Self {
        Self::new(Layer::Default, "")
    }
}

impl Provenance {
    /// The place, as messages about a value name it.
    fn found_in(&self) -> String {
        match self.layer {
            Layer::UserFile | Layer::RepositoryFile => format!("parse config {}", self.place),
            Layer::Default | Layer::Environment | Layer::Flag => self.place.to_string(),
        }
    }
}

/// The place, or the layer when it has none.
impl fmt::Display for Provenance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            formatter.write_str(self.layer.as_str())
        } else {
            formatter.write_str(&self.place)
        }
    }
}

/// A value with where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced {
    /// The value.
    pub value: SettingValue,
    /// Where it came from. For a list that several layers appended to, the last of them.
    pub provenance: Provenance,
}

/// The merged values of one section.
#[derive(Clone)]
pub struct SectionValues {
    schema: &'static SectionSchema,
    path: String,
    values: BTreeMap<&'static str, Sourced>,
}

impl SectionValues {
    /// The declaration's defaults and nothing else.
    ///
    /// # Errors
    ///
    /// `Usage` when a default does not parse, which [`SectionSchema::check`] finds first.
    pub fn defaults(schema: &'static SectionSchema) -> Result<Self> {
        let mut section = Self {
            schema,
            path: schema.name.to_owned(),
            values: BTreeMap::new(),
        };
        for key in schema.keys {
            if let Some(default) = key.default {
                let value = key
                    .kind
                    .parse(default)
                    .map_err(|error| error.context(key.path(schema.name)))?;
                section.values.insert(
                    key.name,
                    Sourced {
                        value,
                        provenance: Provenance::default_value(),
                    },
                );
            }
        }
        Ok(section)
    }

    /// Names the place in a file, for a section whose name holds a `*`.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets a value.
    ///
    /// # Errors
    ///
    /// `Other` when the section declares no such key.
    pub fn set(&mut self, key: &str, value: SettingValue, provenance: Provenance) -> Result<()> {
        let key = self.declared(key)?;
        self.values.insert(key.name, Sourced { value, provenance });
        Ok(())
    }

    /// The declaration.
    pub fn schema(&self) -> &'static SectionSchema {
        self.schema
    }

    /// A value that was set or has a default.
    pub fn sourced(&self, key: &str) -> Option<&Sourced> {
        self.values.get(key)
    }

    /// The layer of a key; `Default` when nothing set it.
    pub fn layer(&self, key: &str) -> Layer {
        self.values
            .get(key)
            .map_or(Layer::Default, |sourced| sourced.provenance.layer)
    }

    /// A value in its Rust type.
    ///
    /// # Errors
    ///
    /// `Usage`, naming the place, when it does not fit its type or is required and missing.
    pub fn get<T: FromSetting>(&self, key: &str) -> Result<T> {
        let key = self.declared(key)?;
        let path = key.path(&self.path);
        match self.values.get(key.name) {
            Some(sourced) => T::from_setting(&sourced.value).map_err(|error| {
                if sourced.provenance.place.is_empty() {
                    error.context(path)
                } else {
                    error.context(format!("{}: {path}", sourced.provenance.found_in()))
                }
            }),
            None => T::when_absent().ok_or_else(|| missing(key, &path)),
        }
    }

    fn declared(&self, name: &str) -> Result<&'static KeySchema> {
        self.schema
            .key(name)
            .ok_or_else(|| Error::other(format!("no such key in section `{}`: `{name}`", self.path)))
    }
}

/// Keys with where they came from, without values.
impl fmt::Debug for SectionValues {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ", self.path)?;
        let places = self
            .values
            .iter()
            .map(|(name, sourced)| (name, sourced.provenance.to_string()));
        formatter.debug_map().entries(places).finish()
    }
}

fn missing(key: &KeySchema, path: &str) -> Error {
    let mut ways = Vec::new();
    if let Some(flag) = key.flag {
        ways.push(format!("`--{flag}`"));
    }
    ways.extend(key.environment.iter().map(|name| format!("`{name}`")));
    if !key.no_file {
        ways.push("it in your config file".to_owned());
    }
    Error::usage(format!("setting is required: `{path}`")).with_hint(format!("set {}", ways.join(" or ")))
}

/// What a provider is connected with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    provider: Option<String>,
    sections: BTreeMap<&'static str, SectionValues>,
}

impl Settings {
    /// Starts from nothing; for embedding and tests.
    pub fn builder() -> SettingsBuilder {
        SettingsBuilder {
            settings: Self::default(),
            fault: None,
        }
    }

    /// One section's defaults with some keys set as flags would set them; for tests.
    ///
    /// # Errors
    ///
    /// `Usage` when a value does not parse, `Other` for an undeclared key.
    pub fn from_pairs(schema: &'static SectionSchema, pairs: &[(&str, &str)]) -> Result<Self> {
        pairs
            .iter()
            .fold(Self::builder().section(schema), |builder, (key, text)| {
                builder.set(schema, key, text, Layer::Flag)
            })
            .build()
    }

    /// Names the provider in refusals.
    #[must_use]
    pub fn for_provider(mut self, name: impl Into<String>) -> Self {
        self.provider = Some(name.into());
        self
    }

    /// Adds or replaces the values of a section.
    #[must_use]
    pub fn with_section(mut self, values: SectionValues) -> Self {
        self.sections.insert(values.schema.name, values);
        self
    }

    /// A section in its Rust type. A section that nothing set has its defaults.
    ///
    /// # Errors
    ///
    /// `Usage` when a value does not fit, a required one is missing, or a repository file chose where an operator's
    /// credential would go.
    pub fn section<T: Section>(&self) -> Result<T> {
        match self.sections.get(T::SCHEMA.name) {
            Some(values) => {
                self.guard_section(values)?;
                T::from_values(values)
            }
            None => T::from_values(&SectionValues::defaults(T::SCHEMA)?),
        }
    }

    /// The merged values of a section.
    pub fn values(&self, section: &str) -> Option<&SectionValues> {
        self.sections.get(section)
    }

    /// Where a value came from.
    pub fn provenance(&self, section: &str, key: &str) -> Option<&Provenance> {
        self.sections
            .get(section)?
            .sourced(key)
            .map(|sourced| &sourced.provenance)
    }

    /// Refuses to send a credential from `credential`, such as a vendor's own credential store, to a destination that a
    /// repository file chose. [`Settings::section`] already does this for the section's own secrets.
    ///
    /// # Errors
    ///
    /// `Usage`, naming the key and how to approve it.
    pub fn guard_destination(&self, section: &str, key: &str, credential: Layer) -> Result<()> {
        let Some(values) = self.sections.get(section) else {
            return Ok(());
        };
        let Some(schema) = values.schema.key(key) else {
            return Ok(());
        };
        if values.layer(key) == Layer::RepositoryFile && credential != Layer::RepositoryFile {
            return Err(refusal(self.provider.as_deref().unwrap_or(section), schema));
        }
        Ok(())
    }

    fn guard_section(&self, values: &SectionValues) -> Result<()> {
        let inherited = values
            .schema
            .keys
            .iter()
            .any(|key| key.secret && values.layer(key.name).is_operator());
        if inherited {
            for key in values.schema.keys.iter().filter(|key| key.destination) {
                self.guard_destination(values.schema.name, key.name, Layer::Environment)?;
            }
        }
        Ok(())
    }
}

fn refusal(provider: &str, key: &KeySchema) -> Error {
    let mut ways: Vec<String> = key.environment.iter().map(|name| format!("`{name}`")).collect();
    ways.extend(key.flag.map(|flag| format!("`--{flag}`")));
    if ways.is_empty() {
        ways.push("it in your own config file".to_owned());
    }
    Error::usage(format!(
        "provider={provider} refuses repository-configured {} with inherited credentials",
        key.name
    ))
    .with_hint(format!("set {} to approve the destination", ways.join(" or ")))
}

/// Builds [`Settings`] by hand.
#[derive(Debug)]
pub struct SettingsBuilder {
    settings: Settings,
    fault: Option<Error>,
}

impl SettingsBuilder {
    /// Names the provider in refusals.
    #[must_use]
    pub fn provider(mut self, name: &str) -> Self {
        self.settings.provider = Some(name.to_owned());
        self
    }

    /// Adds a section with its defaults.
    #[must_use]
    pub fn section(mut self, schema: &'static SectionSchema) -> Self {
        if !self.settings.sections.contains_key(schema.name) {
            match SectionValues::defaults(schema) {
                Ok(values) => {
                    self.settings.sections.insert(schema.name, values);
                }
                Err(error) => self.fault = self.fault.or(Some(error)),
            }
        }
        self
    }

    /// Sets a key from text, as if a layer had set it.
    #[must_use]
    pub fn set(mut self, schema: &'static SectionSchema, key: &str, text: &str, layer: Layer) -> Self {
        self = self.section(schema);
        let Some(values) = self.settings.sections.get_mut(schema.name) else {
            return self;
        };
        let set = values.declared(key).and_then(|declared| {
            let value = declared
                .kind
                .parse(text)
                .map_err(|error| error.context(declared.path(schema.name)))?;
            values.set(key, value, Provenance::new(layer, ""))
        });
        self.fault = self.fault.or(set.err());
        self
    }

    /// Finishes.
    ///
    /// # Errors
    ///
    /// The first error of the steps before.
    pub fn build(self) -> Result<Settings> {
        self.fault.map_or(Ok(self.settings), Err)
    }
}

#[cfg(test)]
mod tests;
