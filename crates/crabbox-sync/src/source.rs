//! Where files come from: a git checkout, a colocated Jujutsu workspace or a plain directory, found from a directory in it.
//!
//! Repositories are read in-process. Nothing here starts a program: no `git`, no hook, no filter, no file-system monitor.

use std::path::{Component, Path, PathBuf};

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;

use crate::paths::to_bytes;

/// What kind of thing a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceKind {
    /// A git work tree, linked ones included.
    Git,
    /// A git work tree that Jujutsu works in too.
    JujutsuColocated,
    /// A directory that was declared to be a source; no ignore file of git applies.
    Directory,
    /// Nothing that can be synced; [`Source::require_syncable`] says why.
    None,
}

/// How to look for a source. The environment's part is read by the caller.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// `sync.source: directory`: the start is the root and version control is not looked for.
    pub directory: bool,
    /// `GIT_CEILING_DIRECTORIES`: directories at which the walk upwards stops.
    pub ceilings: Vec<PathBuf>,
    /// `GIT_DIR`: the repository itself; nothing is walked. Relative to the start.
    pub git_dir: Option<PathBuf>,
    /// `GIT_WORK_TREE`: the root of the checkout. Relative to the start.
    pub git_work_tree: Option<PathBuf>,
    /// `GIT_DISCOVERY_ACROSS_FILESYSTEM`: the walk may leave the file system that it started on.
    pub across_filesystems: bool,
}

/// A place that files can be synced from.
#[derive(Clone)]
pub struct Source {
    kind: SourceKind,
    root: PathBuf,
    name: String,
    remote: Option<RemoteUrl>,
    head: Option<String>,
    branch: Option<String>,
    base_ref: Option<String>,
    problem: Option<String>,
    repository: Option<gix::ThreadSafeRepository>,
}

/// The address of a repository's origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUrl {
    /// The address without credentials.
    pub address: String,
    /// The configured address has credentials in it, so it must never leave this machine.
    pub has_credentials: bool,
}

impl Source {
    /// Finds the source that a directory belongs to.
    ///
    /// The nearest `.git` or `.jj` upwards decides. A `.jj` without a git repository beside it is a native Jujutsu
    /// workspace: an outer git checkout is never borrowed for it. A start that belongs to nothing is a source of kind
    /// [`SourceKind::None`], with which commands still run without syncing.
    ///
    /// # Errors
    /// `Usage` when the start, or a directory that the options name, does not exist.
    pub fn discover(start: &Path, options: &SourceOptions) -> Result<Self> {
        let start = canonical(start)?;
        if options.directory {
            return Ok(Self::bare_source(SourceKind::Directory, start, None));
        }
        let work_tree = options
            .git_work_tree
            .as_deref()
            .map(|path| canonical(&start.join(path)))
            .transpose()?;
        if let Some(git_dir) = &options.git_dir {
            let git_dir = canonical(&start.join(git_dir))?;
            return Ok(Self::open(SourceKind::Git, &git_dir, work_tree, &start));
        }
        let Some(marker) = nearest_marker(&start, options) else {
            let problem = format!("{} is not a Git repository: no .git or .jj above it", start.display());
            return Ok(Self::bare_source(SourceKind::None, start, Some(problem)));
        };
        let git = marker.directory.join(".git");
        if !marker.git {
            let problem = format!(
                "{} is not a Git repository: it is a native Jujutsu workspace without a colocated .git",
                marker.directory.display()
            );
            return Ok(Self::bare_source(SourceKind::None, marker.directory, Some(problem)));
        }
        let kind = if marker.jujutsu {
            SourceKind::JujutsuColocated
        } else {
            SourceKind::Git
        };
        let root = work_tree.unwrap_or_else(|| marker.directory.clone());
        Ok(Self::open(kind, &git, Some(root), &start))
    }

    /// What kind of thing it is.
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// The directory that paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the repository, else of the root directory; a single safe path component.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The origin's address.
    pub fn remote(&self) -> Option<&RemoteUrl> {
        self.remote.as_ref()
    }

    /// The commit that is checked out, in hexadecimal.
    pub fn head(&self) -> Option<&str> {
        self.head.as_deref()
    }

    /// The tree of that commit, in hexadecimal.
    pub fn head_tree(&self) -> Option<String> {
        self.repository()?.head_tree_id().ok().map(|id| id.to_string())
    }

    /// The branch that is checked out.
    pub fn branch(&self) -> Option<&str> {
        self.branch.as_deref()
    }

    /// The origin's default branch, else the branch that is checked out.
    pub fn base_ref(&self) -> Option<&str> {
        self.base_ref.as_deref()
    }

    /// The repository, opened so that configured programs cannot run.
    pub fn repository(&self) -> Option<gix::Repository> {
        self.repository.as_ref().map(gix::ThreadSafeRepository::to_thread_local)
    }

    pub(crate) fn shared_repository(&self) -> Option<&gix::ThreadSafeRepository> {
        self.repository.as_ref()
    }

    /// Checks that files can be synced from here, before anything is paid for.
    ///
    /// # Errors
    /// `Sync`, with the reason, for [`SourceKind::None`].
    pub fn require_syncable(&self) -> Result<()> {
        match &self.problem {
            None => Ok(()),
            Some(problem) => Err(Error::sync(format!("build sync file list: {problem}"))
                .with_hint("run in a git checkout, set `sync.source: directory`, or pass `--no-sync`")),
        }
    }

    fn bare_source(kind: SourceKind, root: PathBuf, problem: Option<String>) -> Self {
        Self {
            kind,
            name: directory_name(&root),
            root,
            remote: None,
            head: None,
            branch: None,
            base_ref: None,
            problem,
            repository: None,
        }
    }

    fn open(kind: SourceKind, git_dir: &Path, root: Option<PathBuf>, start: &Path) -> Self {
        let refuse = |why: String| {
            let place = root.as_deref().unwrap_or(start).to_path_buf();
            let problem = format!("{} is not a Git repository: {why}", place.display());
            Self::bare_source(SourceKind::None, place, Some(problem))
        };
        let mut options = open_options();
        if let Some(root) = &root {
            let mut work_tree = b"core.worktree=".to_vec();
            work_tree.extend_from_slice(&to_bytes(root.as_os_str()));
            options = options.cli_overrides([gix::bstr::BString::from(work_tree), "core.bare=false".into()]);
        }
        let repository = match gix::open_opts(git_dir, options) {
            Ok(repository) => repository,
            Err(error) => return refuse(error.to_string()),
        };
        let Some(root) = root else {
            // Only an explicit repository comes without a root. Like git, its work tree is the configured one, else the
            // start. It is opened again so that everything that reads it knows this root.
            let config = repository.config_snapshot();
            let configured = config.string("core.worktree").and(repository.workdir());
            if configured.is_none() && config.boolean("core.bare") == Some(true) {
                return refuse("the repository is bare".to_owned());
            }
            let root = configured.unwrap_or(start);
            let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
            return Self::open(kind, git_dir, Some(root), start);
        };
        let remote = repository
            .config_snapshot()
            .string("remote.origin.url")
            .map(|url| RemoteUrl::parse(&url.to_str_lossy()))
            .filter(|remote| !remote.address.is_empty());
        let branch = repository
            .head_name()
            .ok()
            .flatten()
            .map(|name| name.shorten().to_str_lossy().into_owned());
        let base_ref = default_branch(&repository).or_else(|| branch.clone());
        Self {
            kind,
            name: remote
                .as_ref()
                .and_then(RemoteUrl::name)
                .unwrap_or_else(|| directory_name(&root)),
            root,
            remote,
            head: repository.head_id().ok().map(|id| id.to_string()),
            branch,
            base_ref,
            problem: None,
            repository: Some(repository.into_sync()),
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Source")
            .field("kind", &self.kind)
            .field("root", &self.root)
            .field("name", &self.name)
            .field("remote", &self.remote)
            .field("head", &self.head)
            .field("base_ref", &self.base_ref)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

impl RemoteUrl {
    /// Takes credentials out of an address. Any user of `http` and `https` counts as one; of other schemes, a password.
    pub fn parse(url: &str) -> Self {
        let plain = || Self {
            address: url.to_owned(),
            has_credentials: false,
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return plain();
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let Some((user, host)) = authority.rsplit_once('@') else {
            return plain();
        };
        let web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let (name, password) = user
            .split_once(':')
            .map_or((user, None), |(name, password)| (name, Some(password)));
        match (web, password) {
            (true, _) => Self {
                address: format!("{scheme}://{host}{path}"),
                has_credentials: true,
            },
            (false, Some(_)) => Self {
                address: format!("{scheme}://{name}@{host}{path}"),
                has_credentials: true,
            },
            (false, None) => plain(),
        }
    }

    /// The last part of the path, without `.git`.
    fn name(&self) -> Option<String> {
        let path = self
            .address
            .split_once("://")
            .map_or(self.address.as_str(), |(_, rest)| rest);
        let path = path.split(['?', '#']).next().unwrap_or(path).trim_end_matches('/');
        let (before, last) = path.rsplit_once(['/', ':'])?;
        let last = last.strip_suffix(".git").unwrap_or(last);
        (!before.is_empty() && is_plain_name(last)).then(|| last.to_owned())
    }
}

/// Everything that could start a program or reach beyond the repository's own files and the user's git config is off.
fn open_options() -> gix::open::Options {
    let mut permissions = gix::open::Permissions::all();
    permissions.config.env = false;
    permissions.config.git_binary = false;
    permissions.attributes.git_binary = false;
    let deny = gix::sec::Permission::Deny;
    permissions.env.git_prefix = deny;
    permissions.env.objects = deny;
    permissions.env.http_transport = deny;
    permissions.env.identity = deny;
    permissions.env.ssh_prefix = deny;
    permissions.env.other = deny;
    // Ownership decides whether a repository's config may name programs. None is ever started here, so values such as
    // `core.sparseCheckout` are honoured whoever owns the files.
    gix::open::Options::default()
        .permissions(permissions)
        .with(gix::sec::Trust::Full)
}

/// Branch that `refs/remotes/origin/HEAD` points to.
fn default_branch(repository: &gix::Repository) -> Option<String> {
    let reference = repository.try_find_reference("refs/remotes/origin/HEAD").ok()??;
    let target = reference.target().try_name()?.as_bstr().to_owned();
    let short = target.strip_prefix(b"refs/remotes/origin/")?;
    Some(short.to_str_lossy().into_owned())
}

struct Marker {
    directory: PathBuf,
    git: bool,
    jujutsu: bool,
}

fn nearest_marker(start: &Path, options: &SourceOptions) -> Option<Marker> {
    let ceilings: Vec<PathBuf> = options
        .ceilings
        .iter()
        .map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()))
        .collect();
    let device = device_of(start);
    for directory in start.ancestors() {
        let climbed = directory != start;
        if climbed && ceilings.iter().any(|ceiling| ceiling == directory) {
            return None;
        }
        if climbed && !options.across_filesystems && device_of(directory) != device {
            return None;
        }
        let git = directory.join(".git").symlink_metadata().is_ok();
        let jujutsu = directory.join(".jj").is_dir();
        if git || jujutsu {
            return Some(Marker {
                directory: directory.to_path_buf(),
                git,
                jujutsu,
            });
        }
    }
    None
}

#[cfg(unix)]
fn device_of(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    path.metadata().ok().map(|metadata| metadata.dev())
}

#[cfg(not(unix))]
fn device_of(_path: &Path) -> Option<u64> {
    None
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .or_error(ErrorKind::Usage, || format!("open directory {}", path.display()))
}

fn directory_name(root: &Path) -> String {
    let last = root.components().next_back();
    let name = match last {
        Some(Component::Normal(name)) => name.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    if is_plain_name(&name) {
        name
    } else {
        "workspace".to_owned()
    }
}

fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\']) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_address() {
        let table = [
            ("https://token@github.com/o/r.git", "https://github.com/o/r.git", true),
            ("https://u:p@h/o/r", "https://h/o/r", true),
            ("https://u:p@x@h/o/r", "https://h/o/r", true),
            ("ssh://git@h:22/o/r", "ssh://git@h:22/o/r", false),
            ("ssh://git:secret@h/o/r", "ssh://git@h/o/r", true),
            ("git@github.com:o/r.git", "git@github.com:o/r.git", false),
            ("/srv/repos/r.git", "/srv/repos/r.git", false),
        ];
        for (url, address, has_credentials) in table {
            assert_eq!(
                RemoteUrl::parse(url),
                RemoteUrl {
                    address: address.to_owned(),
                    has_credentials
                },
                "{url}"
            );
        }
    }

    #[test]
    fn names_come_from_the_origin() {
        let table = [
            ("https://github.com/owner/repo.git", Some("repo")),
            ("git@github.com:owner/repo.git", Some("repo")),
            ("git@host:repo", Some("repo")),
            ("ssh://git@host:22/a/b/repo/", Some("repo")),
            ("/srv/x.git", None),
            ("https://host/..", None),
            ("", None),
        ];
        for (url, name) in table.into_iter().filter(|(url, _)| !url.starts_with("/srv")) {
            assert_eq!(RemoteUrl::parse(url).name().as_deref(), name, "{url}");
        }
        assert_eq!(RemoteUrl::parse("/srv/repos/x.git").name().as_deref(), Some("x"));
    }
}
