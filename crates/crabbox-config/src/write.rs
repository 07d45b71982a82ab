//! Changes the user's file.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crabbox_core::secret::{Secret, display_url};
use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use serde_json::Value as Json;

use crate::edit;
use crate::generic::BrokerMode;
use crate::load::{parse, read};
use crate::yaml::Node;

/// Most links that are followed from the path of a file to the file.
const MAX_LINKS: usize = 255;

/// Providers that a coordinator creates machines of.
const MANAGED_PROVIDERS: [&str; 5] = ["aws", "azure", "daytona", "gcp", "hetzner"];

/// A config file that is being changed. Comments, order and unknown keys stay.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    before: Option<String>,
    text: String,
}

impl ConfigFile {
    /// Reads a file, which need not be there yet.
    ///
    /// # Errors
    ///
    /// `Usage` when it cannot be read or is not YAML.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let before = read(&path)?;
        // A byte order mark would become part of the first key.
        let text = before
            .as_deref()
            .unwrap_or_default()
            .trim_start_matches('\u{feff}')
            .to_owned();
        parse(&path, &text)?;
        Ok(Self { path, before, text })
    }

    /// Sets a value by the segments of its path.
    ///
    /// # Errors
    ///
    /// `Usage` when the file cannot be edited without touching more than the key.
    pub fn set(&mut self, path: &[&str], value: impl Into<Json>) -> Result<()> {
        self.change(path, Some(value.into()))
    }

    /// Removes a value by the segments of its path; one that is not there is fine.
    ///
    /// # Errors
    ///
    /// `Usage` when the file cannot be edited without touching more than the key.
    pub fn remove(&mut self, path: &[&str]) -> Result<()> {
        self.change(path, None)
    }

    fn change(&mut self, path: &[&str], value: Option<Json>) -> Result<()> {
        self.text = edit::change(&self.text, path, value.as_ref())
            .map_err(|error| error.context(format!("edit config {}", self.path.display())))?;
        Ok(())
    }

    /// The text as it would be saved.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn value(&self, path: &[&str]) -> Option<String> {
        let root = parse(&self.path, &self.text).ok()?.root;
        let json = path
            .iter()
            .try_fold(Node::to_json(&root), |json, segment| json.get(*segment).cloned())?;
        match json {
            Json::String(text) if !text.is_empty() => Some(text),
            Json::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Replaces the file at once, readable by its owner only. A link stays a link; on failure the old file is untouched.
    ///
    /// # Errors
    ///
    /// `Usage` when the file cannot be written, or changed since it was opened.
    pub fn save(&self) -> Result<()> {
        let target = follow(&self.path)?;
        let directory = target.parent().unwrap_or_else(|| Path::new("."));
        let words = || format!("write config {}", self.path.display());
        let hint = |error: Error| error.with_hint("check the permissions and the free space of its directory");
        create_directory(directory)
            .or_error(ErrorKind::Usage, words)
            .map_err(hint)?;
        if read(&target)? != self.before {
            return Err(
                Error::usage(format!("config changed meanwhile: `{}`", self.path.display()))
                    .with_hint("run the command again"),
            );
        }
        let name = target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let prefix = format!(".{name}.tmp-");
        // A temporary file is made with mode 0600, and removed again unless it takes the place of the old one.
        let mut file = tempfile::Builder::new()
            .prefix(&prefix)
            .tempfile_in(directory)
            .or_error(ErrorKind::Usage, words)
            .map_err(hint)?;
        file.write_all(self.text.as_bytes())
            .or_error(ErrorKind::Usage, words)
            .map_err(hint)?;
        file.as_file()
            .sync_all()
            .or_error(ErrorKind::Usage, words)
            .map_err(hint)?;
        file.persist(&target)
            .map_err(|error| error.error)
            .or_error(ErrorKind::Usage, words)
            .map_err(hint)?;
        sync_directory(directory).or_error(ErrorKind::Usage, words)
    }
}

/// The file that a chain of links ends at.
fn follow(path: &Path) -> Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..=MAX_LINKS {
        match std::fs::read_link(&target) {
            Ok(next) => target = target.parent().unwrap_or_else(|| Path::new("")).join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(Error::usage(format!("too many links: `{}`", path.display()))
        .with_hint("replace the links by one that leads to the file"))
}

fn create_directory(directory: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> std::io::Result<()> {
    // Only Unix can flush a directory.
    Ok(())
}

/// What is wrong with who may read a config file, as `doctor` says it. `None` when nothing is, or the file is not there.
#[cfg(unix)]
pub fn permissions_problem(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| format!("permissions {mode:04o} want 0600"))
}

/// What is wrong with who may read a config file. Only Unix has modes that tell.
#[cfg(not(unix))]
pub fn permissions_problem(_: &Path) -> Option<String> {
    None
}

/// What `config set-broker` and `login` write. Only what is given is changed.
#[derive(Clone, Debug, Default)]
pub struct BrokerChange {
    /// Address of the coordinator; required.
    pub url: String,
    /// Provider to use with it.
    pub provider: Option<String>,
    /// Who creates machines.
    pub mode: Option<BrokerMode>,
    /// Whether desktops are published through its viewer.
    pub auto_web_vnc: Option<bool>,
    /// Other origins that a login may be redirected to.
    pub login_redirect_origins: Option<Vec<String>>,
    /// Token of the user.
    pub token: Option<Secret>,
    /// Token of an administrator.
    pub admin_token: Option<Secret>,
}

/// What was written; prints as the command's one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerWritten {
    /// The file.
    pub path: PathBuf,
    /// The address, fit to be shown.
    pub url: String,
    /// Who creates machines.
    pub mode: BrokerMode,
    /// `configured` or `missing`.
    pub auth: &'static str,
    /// `configured` or `missing`.
    pub admin_auth: &'static str,
}

impl fmt::Display for BrokerWritten {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            url,
            mode,
            auth,
            admin_auth,
        } = self;
        write!(
            formatter,
            "wrote {} broker={url} mode={mode} auth={auth} admin_auth={admin_auth}",
            path.display()
        )
    }
}

impl BrokerChange {
    /// Makes the change in a file.
    ///
    /// # Errors
    ///
    /// `Usage` for a missing or unusable address, a provider that a coordinator cannot manage, and whatever
    /// [`ConfigFile`] refuses.
    pub fn write(&self, path: &Path) -> Result<BrokerWritten> {
        let url = self.url.trim();
        if !["https://", "http://"]
            .iter()
            .any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
        {
            return Err(
                Error::usage("coordinator is not an http or https URL").with_hint("give it with `--url https://host`")
            );
        }
        let mut file = ConfigFile::open(path)?;
        let mode = match (self.mode, file.value(&["broker", "mode"])) {
            (Some(mode), _) => mode,
            (None, Some(mode)) => mode.parse()?,
            (None, None) => BrokerMode::Managed,
        };
        let provider = self.provider.as_ref().map(|provider| provider.trim().to_lowercase());
        if let (BrokerMode::Managed, Some(provider)) = (mode, &provider)
            && !MANAGED_PROVIDERS.contains(&provider.as_str())
        {
            return Err(Error::usage(format!(
                "a coordinator cannot manage this provider: `{}`",
                provider.escape_debug()
            ))
            .with_hint(format!(
                "choose one of {}, or give `--mode registered`",
                MANAGED_PROVIDERS.join(", ")
            )));
        }
        file.set(&["broker", "url"], url)?;
        if let Some(mode) = self.mode {
            file.set(&["broker", "mode"], mode.as_str())?;
        }
        if let Some(provider) = provider {
            file.set(&["broker", "provider"], provider.clone())?;
            file.set(&["provider"], provider)?;
        }
        if let Some(enabled) = self.auto_web_vnc {
            file.set(&["broker", "autoWebVNC"], enabled)?;
        }
        if let Some(origins) = &self.login_redirect_origins {
            file.set(&["broker", "loginRedirectOrigins"], origins.clone())?;
        }
        for (key, secret) in [("token", &self.token), ("adminToken", &self.admin_token)] {
            if let Some(secret) = secret {
                file.set(&["broker", key], secret.expose())?;
            }
        }
        file.save()?;
        let state = |configured: bool| if configured { "configured" } else { "missing" };
        Ok(BrokerWritten {
            path: path.to_owned(),
            url: display_url(url),
            mode,
            auth: state(
                file.value(&["broker", "token"])
                    .or_else(|| file.value(&["coordinatorToken"]))
                    .is_some(),
            ),
            admin_auth: state(file.value(&["broker", "adminToken"]).is_some()),
        })
    }
}

/// Removes the user's token from a file, as `logout` does. Other credentials stay.
///
/// # Errors
///
/// What [`ConfigFile`] refuses.
pub fn remove_broker_token(path: &Path) -> Result<()> {
    let mut file = ConfigFile::open(path)?;
    file.remove(&["broker", "token"])?;
    file.remove(&["coordinatorToken"])?;
    if file.before.is_none() { Ok(()) } else { file.save() }
}
