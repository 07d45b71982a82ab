//! A directory with a repository, a home and an injected environment.

use std::fs::{File, create_dir_all};
use std::io::Write as _;
use std::path::PathBuf;

use crabbox_config::{Loaded, Loader, Platform};
use crabbox_core::runtime::Environment;
use crabbox_core::secret::{Origin, Secret};
use crabbox_core::{Error, Result, Section};

/// A provider's section with one key of every sort.
#[derive(Clone, Debug, Section)]
#[section(name = "acmeBox")]
pub(crate) struct AcmeBox {
    /// Region.
    #[key(env = "CRABBOX_ACME_BOX_REGION", flag = "acme-box-region", default = "eu1")]
    pub(crate) region: String,
    /// Image.
    #[key(env = "CRABBOX_ACME_BOX_IMAGE")]
    pub(crate) image: Option<String>,
    /// Address.
    #[key(env = "CRABBOX_ACME_BOX_API_URL", default = "https://api.acme.test")]
    pub(crate) api_url: Origin,
    /// Token.
    #[key(env = ["CRABBOX_ACME_BOX_TOKEN", "ACME_TOKEN"])]
    pub(crate) token: Option<Secret>,
    /// Program.
    #[key(env = "CRABBOX_ACME_BOX_CLI", trust = operator)]
    pub(crate) cli_path: Option<String>,
    /// Processors.
    #[key(env = "CRABBOX_ACME_BOX_CPUS", default = 4)]
    pub(crate) cpus: u16,
    /// Share of a processor.
    #[key(default = 0.5)]
    pub(crate) share: f64,
    /// Longest life.
    #[key(trust = at_most, default = 100)]
    pub(crate) limit: i64,
    /// Memory.
    #[key(kind = bytes, trust = at_most)]
    pub(crate) memory: Option<u64>,
    /// May buy.
    #[key(trust = only_false)]
    pub(crate) allow_purchase: bool,
    /// Attests.
    #[key(trust = only_true)]
    pub(crate) attest: bool,
    /// Ports.
    #[key]
    pub(crate) ports: Vec<String>,
    /// Metadata.
    #[key]
    pub(crate) metadata: std::collections::BTreeMap<String, String>,
    /// Mounts.
    #[key]
    pub(crate) mounts: Option<serde_json::Value>,
}

pub(crate) struct World {
    directory: tempfile::TempDir,
    variables: Vec<(String, String)>,
    flags: Vec<(String, String, Vec<String>)>,
    below: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        create_dir_all(directory.path().join("repo/.git")).unwrap();
        create_dir_all(directory.path().join("home")).unwrap();
        Self {
            directory,
            variables: Vec::new(),
            flags: Vec::new(),
            below: PathBuf::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        let path = self.path(name);
        create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
        self
    }

    pub(crate) fn user(self, text: &str) -> Self {
        self.file("home/.config/crabbox/config.yaml", text)
    }

    pub(crate) fn repository(self, text: &str) -> Self {
        self.file("repo/.crabbox.yaml", text)
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn flag(mut self, section: &str, key: &str, values: &[&str]) -> Self {
        self.flags.push((
            section.to_owned(),
            key.to_owned(),
            values.iter().map(|value| (*value).to_owned()).collect(),
        ));
        self
    }

    pub(crate) fn below(mut self, directory: &str) -> Self {
        create_dir_all(self.path("repo").join(directory)).unwrap();
        self.below = directory.into();
        self
    }

    pub(crate) fn load(&self) -> Result<Loaded> {
        let home = self.path("home");
        let home = (String::from("HOME"), home.to_str().unwrap().to_owned());
        let environment = Environment::new(self.variables.iter().cloned().chain([home]));
        let loader = Loader::new(environment, self.path("repo").join(&self.below))
            .platform(Platform::Unix)
            .providers([AcmeBox::SCHEMA]);
        self.flags
            .iter()
            .fold(loader, |loader, (section, key, values)| {
                loader.flag(section, key, values.iter().cloned())
            })
            .load()
    }

    /// A text with this world's directory taken out.
    pub(crate) fn clean(&self, text: &str) -> String {
        text.replace(self.directory.path().to_str().unwrap(), "[dir]")
    }

    pub(crate) fn error(&self) -> String {
        self.describe(&self.load().unwrap_err())
    }

    pub(crate) fn describe(&self, error: &Error) -> String {
        assert_eq!(error.kind().exit_code(), 2, "{error}");
        self.clean(&format!(
            "{error}\n  hint: {}",
            error.hint().expect("every error has a cure")
        ))
    }

    pub(crate) fn warnings(&self) -> String {
        let loaded = self.load().unwrap();
        assert_eq!(loaded.check().is_err(), !loaded.warnings.is_empty());
        let lines: Vec<String> = loaded
            .warnings
            .iter()
            .map(|warning| format!("{warning}\n  hint: {}", warning.hint))
            .collect();
        self.clean(&lines.join("\n"))
    }

    /// Where a value came from, as layer and place.
    pub(crate) fn source(&self, path: &str) -> String {
        let loaded = self.load().unwrap();
        let provenance = loaded
            .config
            .provenance(path)
            .unwrap_or_else(|| panic!("nothing set {path}"));
        self.clean(&format!("{} {}", provenance.layer, provenance.place))
    }
}
