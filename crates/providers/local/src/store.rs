//! What lies on disk: one directory per box, and the layers that checkpoints are made of.
//!
//! ```text
//! <state>/local/boxes/<id>/box.json      what it is; labels
//!                         plan.json      what its supervisor builds
//!                         layers.json    where the workspace is
//!                         run.json       its processes and control groups
//!                         lock           held by the supervisor as long as it lives
//!                         home/ upper-0/ what the box wrote
//! <state>/local/layers/<name>/tree       read-only, shared by boxes and checkpoints
//! <state>/local/checkpoints/<id>.json    a stack of layers
//! ```
//!
//! Nothing is flushed to disk: a box does not outlive the kernel that runs it.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crabbox_core::error::{Error, ErrorKind, IntoError as _, Result};
use crabbox_core::labels::Labels;
use crabbox_core::spec::IsolationLevel;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A name that is being removed or made starts with this, and is no box.
const HIDDEN: char = '.';

/// What a box is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BoxRecord {
    /// Name for people.
    pub(crate) name: String,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// `container` or `none`.
    pub(crate) isolation: String,
    /// `host` or `none`.
    pub(crate) network: String,
    /// Directory inside below which workspaces live.
    pub(crate) work_root: String,
    /// Labels.
    pub(crate) labels: Labels,
}

impl BoxRecord {
    /// What separates it from the host.
    pub(crate) fn isolation_level(&self) -> IsolationLevel {
        if self.isolation == "container" {
            IsolationLevel::Container
        } else {
            IsolationLevel::None
        }
    }
}

/// Where the workspace of a box is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layers {
    /// Names of read-only layers, newest first. Empty when the workspace is the plain directory `upper`.
    pub(crate) lower: Vec<String>,
    /// Directory, below that of the box, of what the box wrote.
    pub(crate) upper: String,
    /// The checkpoint that the box started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<String>,
}

impl Layers {
    /// A plain, empty workspace.
    pub(crate) fn first(lower: Vec<String>) -> Self {
        Self {
            lower,
            upper: "upper-0".into(),
            checkpoint: None,
        }
    }

    /// Notes the checkpoint that it starts from.
    pub(crate) fn of_checkpoint(mut self, id: &str) -> Self {
        self.checkpoint = Some(id.to_owned());
        self
    }

    /// Other layers with a new, empty directory for what the box writes.
    pub(crate) fn next(&self, lower: Vec<String>, checkpoint: Option<String>) -> Self {
        let number: u64 = self
            .upper
            .rsplit('-')
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        Self {
            lower,
            upper: format!("upper-{}", number + 1),
            checkpoint,
        }
    }
}

/// A process, recognisable after its id was given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    /// Process id on this machine.
    pub(crate) pid: i32,
    /// When it started, in the kernel's ticks since boot.
    pub(crate) start: u64,
}

/// The processes and control groups of a box.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RunRecord {
    /// The supervisor.
    pub(crate) supervisor: Option<ProcessRecord>,
    /// The first process inside.
    pub(crate) first: Option<ProcessRecord>,
    /// Control groups.
    pub(crate) groups: Vec<PathBuf>,
    /// Whether it is paused.
    pub(crate) paused: bool,
    /// Whether the first process has ended although nobody asked for it.
    pub(crate) broken: bool,
    /// Whether it is being ended, because somebody asked for it or its time is over.
    pub(crate) ending: bool,
}

/// What became of a box directory.
#[derive(Debug)]
pub(crate) enum Found {
    /// It has a readable record.
    Whole(Box<BoxRecord>),
    /// The directory is there, but its record cannot be read; labels as far as they could be recovered.
    Damaged(Labels),
    /// No such box.
    Nothing,
}

/// The provider's directories.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    /// The store below a state directory. Nothing is made yet.
    pub(crate) fn new(state: &Path) -> Self {
        Self {
            root: state.join("local"),
        }
    }

    /// Makes the directories, readable by nobody else.
    pub(crate) fn prepare(&self) -> Result<()> {
        for path in [self.boxes(), self.layers(), self.checkpoints()] {
            make_private(&path)?;
        }
        Ok(())
    }

    pub(crate) fn boxes(&self) -> PathBuf {
        self.root.join("boxes")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Directory of a box.
    ///
    /// # Errors
    /// `Identity` for an id that no box of ours can have.
    pub(crate) fn directory(&self, id: &str) -> Result<PathBuf> {
        let valid = !id.is_empty()
            && id.len() <= 64
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if valid {
            Ok(self.boxes().join(id))
        } else {
            Err(Error::identity(format!(
                "not the id of a local box: `{}`",
                id.escape_debug()
            )))
        }
    }

    /// Where a box is assembled before it gets its name.
    pub(crate) fn draft(&self, id: &str) -> PathBuf {
        self.boxes().join(format!("{HIDDEN}new-{id}"))
    }

    /// Everything that is being assembled, or was when its maker died.
    pub(crate) fn drafts(&self) -> Result<Vec<PathBuf>> {
        let names = names(&self.boxes())?.into_iter();
        let drafts = names.filter(|name| name.starts_with(&format!("{HIDDEN}new-")));
        Ok(drafts.map(|name| self.boxes().join(name)).collect())
    }

    /// Where a box goes while it is removed.
    pub(crate) fn discarded(&self, id: &str) -> PathBuf {
        self.boxes().join(format!("{HIDDEN}gone-{id}"))
    }

    /// Ids of every box directory.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let mut ids = names(&self.boxes())?;
        ids.retain(|name| !name.starts_with(HIDDEN));
        Ok(ids)
    }

    /// What is known of a box.
    pub(crate) fn find(&self, id: &str) -> Result<Found> {
        let directory = self.directory(id)?;
        let path = directory.join("box.json");
        match fs::read(&path) {
            Ok(bytes) => Ok(match serde_json::from_slice(&bytes) {
                Ok(record) => Found::Whole(Box::new(record)),
                Err(_) => Found::Damaged(recover_labels(&String::from_utf8_lossy(&bytes))),
            }),
            Err(error) if error.kind() == IoKind::NotFound => Ok(if directory.is_dir() {
                Found::Damaged(Labels::default())
            } else {
                Found::Nothing
            }),
            Err(error) => Err(Error::other(format!("read {}", path.display())).with_source(error)),
        }
    }

    /// Takes an exclusive hold of the layers against other processes; released when the file is dropped.
    pub(crate) fn hold_layers(&self) -> Result<File> {
        let (file, failed) = self.lock_file("layers.lock")?;
        file.lock().or_error(ErrorKind::Other, || failed)?;
        Ok(file)
    }

    /// Says that a draft is being made, as long as the result lives. Many may do so at once, each for milliseconds.
    pub(crate) fn hold_drafts(&self) -> Result<File> {
        let (file, failed) = self.lock_file("drafts.lock")?;
        file.lock_shared().or_error(ErrorKind::Other, || failed)?;
        Ok(file)
    }

    /// Waits until nobody makes a draft, and lets nobody begin one: every draft that is there then is nobody's.
    pub(crate) fn hold_drafts_alone(&self) -> Result<File> {
        let (file, failed) = self.lock_file("drafts.lock")?;
        file.lock().or_error(ErrorKind::Other, || failed)?;
        Ok(file)
    }

    /// Opens a lock file, and says what to call a failure to lock it.
    fn lock_file(&self, name: &str) -> Result<(File, String)> {
        let path = self.root.join(name);
        let failed = format!("lock {}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .or_error(ErrorKind::Other, || failed.clone())?;
        Ok((file, failed))
    }
}

/// Names in a directory; none when it does not exist.
pub(crate) fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = || format!("read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::other(failed()).with_source(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.or_error(ErrorKind::Other, failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Makes a directory and its parents, closed to others.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| {
            let hint = match error.kind() {
                IoKind::PermissionDenied | IoKind::ReadOnlyFilesystem => {
                    "make the state directory writable, or choose another with CRABBOX_STATE_DIR"
                }
                IoKind::StorageFull => "free some space on the disk that holds the state directory",
                _ => "check the state directory, or choose another with CRABBOX_STATE_DIR",
            };
            Error::other(format!("make {}", path.display()))
                .with_source(error)
                .with_hint(hint)
        })
}

/// Writes a file that does not exist yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || format!("write {}", path.display());
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .or_error(ErrorKind::Other, failed)
}

/// Replaces a file in one step, so that readers see the old or the new content.
pub(crate) fn replace<T: Serialize>(directory: &Path, name: &str, value: &T) -> Result<()> {
    let path = directory.join(name);
    let failed = || format!("write {}", path.display());
    let bytes = serde_json::to_vec(value).or_error(ErrorKind::Other, failed)?;
    let draft = directory.join(format!(".{name}.{}.{}", std::process::id(), crate::token(4)));
    write_new(&draft, &bytes)?;
    fs::rename(&draft, &path)
        .or_error(ErrorKind::Other, failed)
        .inspect_err(|_| {
            let _ = fs::remove_file(&draft);
        })
}

/// Reads a file that [`replace`] wrote; `None` when it does not exist.
pub(crate) fn load<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<Option<T>> {
    let path = directory.join(name);
    let failed = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(mut file) => file.read_to_end(&mut bytes).or_error(ErrorKind::Other, failed)?,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::other(failed()).with_source(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .or_error(ErrorKind::Other, failed)
}

/// Whether a supervisor lives.
pub(crate) fn is_supervised(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join("lock")) else {
        return false;
    };
    match file.try_lock_shared() {
        Ok(()) => false,
        Err(fs::TryLockError::WouldBlock) => true,
        Err(fs::TryLockError::Error(_)) => false,
    }
}

/// Reads what is left of the labels in a damaged record: pairs of strings after the word `labels`.
fn recover_labels(text: &str) -> Labels {
    let Some((_, rest)) = text.split_once("\"labels\"") else {
        return Labels::default();
    };
    let rest = rest.split('}').next().unwrap_or_default();
    let pair = pairs_of(rest);
    Labels::from_observed(pair)
}

/// Pairs `"key":"value"` without escapes, which labels never need.
fn pairs_of(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut parts = text.split('"').skip(1);
    while let (Some(key), Some(between), Some(value), Some(_)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    {
        if between.trim() == ":" {
            pairs.push((key.to_owned(), value.to_owned()));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_torn_record_are_recovered() {
        let torn = r#"{"name":"x","labels":{"lease":"cbx_1","slug":"blue","expi"#;
        let labels = recover_labels(torn);
        assert_eq!((labels.get("lease"), labels.get("slug")), (Some("cbx_1"), Some("blue")));
        assert!(labels.get("expi").is_none());
        assert!(recover_labels("{\"na").is_empty());
    }

    #[test]
    fn ids_stay_inside_the_store() {
        let store = Store::new(Path::new("/state"));
        assert!(store.directory("box-1f").is_ok());
        for bad in ["", "..", "a/b", ".new-x", "a\0"] {
            assert!(store.directory(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn drafts_and_what_is_being_removed_are_no_boxes() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::new(state.path());
        assert!(store.ids().unwrap().is_empty());
        store.prepare().unwrap();
        for path in [store.draft("a"), store.discarded("b"), store.directory("c").unwrap()] {
            fs::create_dir(path).unwrap();
        }
        assert_eq!(store.ids().unwrap(), ["c"]);
        assert!(matches!(store.find("c").unwrap(), Found::Damaged(_)));
        assert!(matches!(store.find("d").unwrap(), Found::Nothing));
    }

    #[test]
    fn layers_count_on() {
        let first = Layers::first(Vec::new());
        assert_eq!(first.next(vec!["x".into()], None).upper, "upper-1");
    }
}
