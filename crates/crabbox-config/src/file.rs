//! A file becomes a layer: keys are found, values take the kind of their key, and trust is judged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crabbox_core::section::{KeySchema, Kind, Merge, SettingValue, Trust};
use crabbox_core::settings::Layer;
use crabbox_core::{Error, Result};

use crate::layer::{SourceLayer, Warning, expand_home, hide};
use crate::registry::{Branch, Registry, is_foreign_section, nearest};
use crate::trust::{Verdict, judge};
use crate::yaml::{Content, Entry as YamlEntry, Node, integer};

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
        if self.layer == Layer::RepositoryFile && leaf.key.trust == Trust::AtMost {
            layer.cap(canonical, value, place);
        } else {
            layer.push(canonical, leaf.key, value, place, leaf.rank);
        }
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
        (Kind::Boolean, Content::Scalar { plain: false, text }) if !text.is_empty() => {
            return Err(
                Error::usage(format!("expected {}, found quoted text", key.kind.word())).with_hint("remove the quotes")
            );
        }
        (kind, Content::Scalar { text, .. }) => {
            if text.trim().is_empty() {
                return Ok(None);
            }
            match kind {
                Kind::Path => SettingValue::Text(expand_home(text.trim(), home)),
                kind => match (kind, integer(text)) {
                    (Kind::Integer, Some(number)) => SettingValue::Integer(number),
                    (Kind::Bytes, Some(number)) if number >= 0 => SettingValue::Bytes(number.unsigned_abs()),
                    _ => kind.parse(text).map_err(|error| hide(error, key, text))?,
                },
            }
        }
        (Kind::List, _) => return Err(expected("a list")),
        (Kind::Map, _) => return Err(expected("a mapping")),
        (kind, _) => return Err(expected(kind.word())),
    };
    (key.validate)(&value)?;
    Ok(Some(value))
}
