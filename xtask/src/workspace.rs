//! The workspace as its manifests describe it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use toml_edit::{DocumentMut, Item};

use crate::files;

/// What every provider package's name starts with.
pub const PROVIDER_PREFIX: &str = "crabbox-provider-";

/// The checkout and its members.
#[derive(Debug)]
pub struct Workspace {
    /// Directory of the root manifest.
    pub root: PathBuf,
    /// Members sorted by path: crates, then providers, then xtask.
    pub members: Vec<Member>,
}

/// One package of the workspace.
#[derive(Debug)]
pub struct Member {
    /// Package name.
    pub name: String,
    /// Package directory relative to the root, with `/` between its parts.
    pub directory: String,
    /// Parsed `Cargo.toml`.
    pub manifest: DocumentMut,
}

/// One entry of a dependency table.
#[derive(Debug)]
pub struct Dependency<'a> {
    /// Package name as written.
    pub name: &'a str,
    /// Table that holds it, such as `dependencies` or `dev-dependencies`.
    pub table: &'static str,
    /// Its value.
    pub item: &'a Item,
}

impl Workspace {
    /// Reads the workspace this program was built from.
    ///
    /// # Errors
    /// When a manifest is missing or is not TOML.
    pub fn load() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask has no parent directory")?;
        Self::load_from(root)
    }

    /// Reads the workspace in the given directory.
    ///
    /// # Errors
    /// When a manifest is missing or is not TOML.
    pub fn load_from(root: &Path) -> Result<Self> {
        let mut members = Vec::new();
        for directory in ["crates", "crates/providers"] {
            let Ok(entries) = fs::read_dir(root.join(directory)) else {
                continue;
            };
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let path = format!("{directory}/{name}");
                if root.join(&path).join("Cargo.toml").is_file() {
                    members.push(Member::load(root, path)?);
                }
            }
        }
        if root.join("xtask/Cargo.toml").is_file() {
            members.push(Member::load(root, "xtask".to_owned())?);
        }
        members.sort_by(|a, b| a.directory.cmp(&b.directory));
        Ok(Self {
            root: root.to_path_buf(),
            members,
        })
    }

    /// Provider crates, sorted by provider name.
    pub fn providers(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members
            .iter()
            .filter_map(|member| member.provider_name().map(|name| (name, member)))
    }

    /// The member with the given package name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

impl Member {
    fn load(root: &Path, directory: String) -> Result<Self> {
        let path = root.join(&directory).join("Cargo.toml");
        let manifest: DocumentMut = files::read(&path)?
            .parse()
            .with_context(|| format!("cannot parse {}", path.display()))?;
        let name = manifest
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(Item::as_str)
            .with_context(|| format!("no package name in {}", path.display()))?
            .to_owned();
        Ok(Self {
            name,
            directory,
            manifest,
        })
    }

    /// Provider name when this crate lives under `crates/providers`.
    pub fn provider_name(&self) -> Option<&str> {
        self.directory.strip_prefix("crates/providers/")
    }

    /// Every dependency of every table, those under `[target.…]` included.
    pub fn dependencies(&self) -> Vec<Dependency<'_>> {
        const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
        let root = self.manifest.as_item();
        let targets = root.get("target").and_then(Item::as_table_like);
        let target_items = targets.into_iter().flat_map(|table| table.iter().map(|(_, item)| item));
        let mut found = Vec::new();
        for holder in std::iter::once(root).chain(target_items) {
            for table in TABLES {
                let Some(entries) = holder.get(table).and_then(Item::as_table_like) else {
                    continue;
                };
                found.extend(entries.iter().map(|(name, item)| Dependency { name, table, item }));
            }
        }
        found
    }

    /// Text list at `package.metadata.crabbox.<key>`.
    pub fn metadata_list(&self, key: &str) -> Vec<String> {
        let item = ["package", "metadata", "crabbox", key]
            .iter()
            .try_fold(self.manifest.as_item(), |item, part| item.get(part));
        let values = item.and_then(Item::as_array).into_iter().flatten();
        values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }
}
