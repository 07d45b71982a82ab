//! One parallel walk of the work tree, compared with the index on the way.

use std::fs::Metadata;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;
use rayon::Scope;

use super::ignore::Ignores;
use super::tracked::{Look, Tracked};
use super::{CHANGED, MODE, Manifest, ProtectedTracked, SYMLINK};
use crate::paths::{full_path, to_bytes};
use crate::rules::{Rules, Standing, Verdict, is_safe_path};
use crate::stat_cache::StatKey;

/// Looks at a plain directory: only the rules decide.
pub(super) fn directory(root: &Path, rules: &Rules) -> Result<Manifest> {
    let mut found = walk(root, rules, None, &Ignores::default())?;
    found.manifest.sort();
    Ok(found.manifest.finish(Vec::new()))
}

/// What a walk found, unsorted.
#[derive(Default)]
pub(super) struct Found {
    pub(super) manifest: Manifest,
    /// Places of the index that only the content can tell about.
    pub(super) unsure: Vec<u32>,
    /// Places of the index with nothing on disk.
    pub(super) absent: Vec<Range<u32>>,
}

struct Shared<'a> {
    root: &'a Path,
    rules: &'a Rules,
    tracked: Option<&'a Tracked<'a>>,
    found: Mutex<Found>,
    failure: Mutex<Option<Error>>,
}

/// One directory to look at.
struct Directory {
    /// Path from the root with a trailing slash; empty for the root.
    prefix: Vec<u8>,
    /// Its entries in the index.
    places: Range<usize>,
    standing: Standing,
    ignores: Ignores,
    /// Nothing untracked in it travels, so it is not listed.
    tracked_only: bool,
}

/// Looks at everything below a root that may travel.
pub(super) fn walk(root: &Path, rules: &Rules, tracked: Option<&Tracked<'_>>, ignores: &Ignores) -> Result<Found> {
    let shared = Shared {
        root,
        rules,
        tracked,
        found: Mutex::default(),
        failure: Mutex::default(),
    };
    let directory = Directory {
        prefix: Vec::new(),
        places: 0..tracked.map_or(0, |tracked| tracked.entries.len()),
        standing: rules.root(),
        ignores: ignores.clone(),
        tracked_only: false,
    };
    rayon::scope(|scope| shared.visit(scope, directory));
    let failure = shared
        .failure
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match failure {
        Some(error) => Err(error),
        None => Ok(shared
            .found
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)),
    }
}

impl Shared<'_> {
    fn visit<'scope>(&'scope self, scope: &Scope<'scope>, directory: Directory) {
        let failed = lock(&self.failure).is_some();
        if failed {
            return;
        }
        let mut batch = Found::default();
        let result = if directory.tracked_only {
            self.look_up(scope, &directory, &mut batch)
        } else {
            self.list(scope, &directory, &mut batch)
        };
        let result = result.and_then(|()| {
            let mut found = lock(&self.found);
            found.unsure.append(&mut batch.unsure);
            found.absent.append(&mut batch.absent);
            found.manifest.append(&mut batch.manifest)
        });
        if let Err(error) = result {
            lock(&self.failure).get_or_insert(error);
        }
    }

    /// Reads a directory and looks at everything in it.
    fn list<'scope>(&'scope self, scope: &Scope<'scope>, directory: &Directory, batch: &mut Found) -> Result<()> {
        let full = full_path(self.root, &directory.prefix);
        let mut covered = Vec::new();
        let listing = match std::fs::read_dir(&full) {
            Ok(listing) => listing,
            Err(error) => return self.unlistable(directory, &full, error, batch),
        };
        let ignores = match self.tracked {
            Some(_) => directory.ignores.enter(&full, directory.prefix.len()),
            None => Ignores::default(),
        };
        let mut path = directory.prefix.clone();
        for child in listing {
            let child = match child {
                Ok(child) => child,
                Err(error) => return self.unlistable(directory, &full, error, batch),
            };
            let file_name = child.file_name();
            let name = to_bytes(&file_name);
            if is_git_directory_name(&name) {
                continue;
            }
            path.truncate(directory.prefix.len());
            path.extend_from_slice(&name);
            let Ok(kind) = child.file_type() else { continue };
            if kind.is_dir() {
                self.list_directory(scope, directory, &ignores, &path, &mut covered);
                continue;
            }
            if !kind.is_file() && !kind.is_symlink() {
                continue;
            }
            let places = self
                .tracked
                .map_or(0..0, |tracked| tracked.exactly(&directory.places, &path));
            if !places.is_empty() {
                covered.push(places.clone());
            }
            if self.travels(directory, &ignores, &path, &places, batch)
                && let Ok(metadata) = child.metadata()
            {
                self.take(&path, &metadata, &places, batch)?;
            }
        }
        self.note_absent(&directory.places, covered, batch);
        Ok(())
    }

    fn list_directory<'scope>(
        &'scope self,
        scope: &Scope<'scope>,
        directory: &Directory,
        ignores: &Ignores,
        path: &[u8],
        covered: &mut Vec<Range<usize>>,
    ) {
        let mut prefix = path.to_vec();
        prefix.push(b'/');
        let standing = self.rules.enter(directory.standing, path);
        let mut places = 0..0;
        let mut untracked = false;
        if let Some(tracked) = self.tracked {
            let exact = tracked.exactly(&directory.places, path);
            if tracked.is_submodule(&exact) {
                covered.push(exact);
                return;
            }
            places = tracked.below(&directory.places, &prefix);
            if !places.is_empty() {
                covered.push(places.clone());
            }
            untracked = places.is_empty();
            // Another repository's files are its own, unless ours tracks files among them.
            if untracked && (ignores.ignores(path, true, tracked.case) || is_repository(&full_path(self.root, path))) {
                return;
            }
        }
        if self.rules.sealed(standing, path) {
            return;
        }
        let ignored = !untracked
            && self
                .tracked
                .is_some_and(|tracked| ignores.ignores(path, true, tracked.case));
        let tracked_only = ignored || self.rules.closed(standing, path);
        if tracked_only && places.is_empty() {
            return;
        }
        let directory = Directory {
            prefix,
            places,
            standing,
            ignores: ignores.clone(),
            tracked_only,
        };
        scope.spawn(move |scope| self.visit(scope, directory));
    }

    /// Looks only at the tracked files of a directory.
    fn look_up<'scope>(&'scope self, scope: &Scope<'scope>, directory: &Directory, batch: &mut Found) -> Result<()> {
        let Some(tracked) = self.tracked else { return Ok(()) };
        let mut covered = Vec::new();
        let mut place = directory.places.start;
        while place < directory.places.end {
            let path = tracked.path(place);
            let rest = &path[directory.prefix.len()..];
            let (name, end) = match rest.find_byte(b'/') {
                Some(slash) => {
                    let prefix = &path[..=directory.prefix.len() + slash];
                    (
                        &rest[..slash],
                        tracked.below(&(place..directory.places.end), prefix).end,
                    )
                }
                None => (rest, tracked.exactly(&(place..directory.places.end), path).end),
            };
            let places = place..end;
            place = end;
            if name.is_empty() || !is_safe_path(name) || is_git_directory_name(name) {
                continue;
            }
            let path = &path[..directory.prefix.len() + name.len()];
            let Ok(metadata) = full_path(self.root, path).symlink_metadata() else {
                continue;
            };
            if name.len() < rest.len() {
                if !metadata.is_dir() {
                    continue;
                }
                covered.push(places.clone());
                let standing = self.rules.enter(directory.standing, path);
                if !self.rules.sealed(standing, path) {
                    let mut prefix = path.to_vec();
                    prefix.push(b'/');
                    let ignores = directory.ignores.clone();
                    let below = Directory {
                        prefix,
                        places,
                        standing,
                        ignores,
                        tracked_only: true,
                    };
                    scope.spawn(move |scope| self.visit(scope, below));
                }
                continue;
            }
            if metadata.is_dir() && !tracked.is_submodule(&places) {
                continue;
            }
            covered.push(places.clone());
            if (metadata.is_file() || metadata.is_symlink())
                && self.travels(directory, &directory.ignores, path, &places, batch)
            {
                self.take(path, &metadata, &places, batch)?;
            }
        }
        self.note_absent(&directory.places, covered, batch);
        Ok(())
    }

    /// Whether rules and ignores let a file travel.
    fn travels(
        &self,
        directory: &Directory,
        ignores: &Ignores,
        path: &[u8],
        places: &Range<usize>,
        batch: &mut Found,
    ) -> bool {
        let Some(tracked) = self.tracked else {
            return self.rules.judge(directory.standing, path, false) == Verdict::Travels;
        };
        if places.is_empty() {
            return self.rules.judge(directory.standing, path, false) == Verdict::Travels
                && !ignores.ignores(path, false, tracked.case);
        }
        if tracked.is_submodule(places) {
            return false;
        }
        match self.rules.judge(directory.standing, path, tracked.is_regular(places)) {
            Verdict::Travels => true,
            Verdict::Stays => false,
            Verdict::Protected(rule) => {
                let pattern = self.rules.text(rule).to_owned();
                let path = path.to_str_lossy().into_owned();
                batch.manifest.protected.push(ProtectedTracked { path, pattern });
                true
            }
        }
    }

    /// Adds a file that travels.
    fn take(&self, path: &[u8], metadata: &Metadata, places: &Range<usize>, batch: &mut Found) -> Result<()> {
        let key = stat_key(metadata);
        let mut bits = mode_bits(metadata);
        if metadata.is_symlink() {
            bits |= SYMLINK;
        } else if !metadata.is_file() {
            return Ok(());
        }
        if let Some(tracked) = self.tracked {
            let look = if places.is_empty() {
                Look::Changed
            } else {
                tracked.look(places, &key, bits)
            };
            match look {
                Look::Same => {}
                Look::Changed => bits |= CHANGED,
                Look::Unsure => batch.unsure.push(place_number(places.start)?),
            }
        } else {
            bits |= CHANGED;
        }
        batch.manifest.push(path, key, bits)
    }

    /// Notes the places of a directory that nothing on disk stood for.
    fn note_absent(&self, places: &Range<usize>, mut covered: Vec<Range<usize>>, batch: &mut Found) {
        covered.sort_by_key(|range| range.start);
        let mut next = places.start;
        for range in covered.into_iter().chain(std::iter::once(places.end..places.end)) {
            if next < range.start
                && let (Ok(start), Ok(end)) = (u32::try_from(next), u32::try_from(range.start))
            {
                batch.absent.push(start..end);
            }
            next = next.max(range.end);
        }
    }

    /// A directory that vanished has nothing; one that may not be read is an error if git tracks files in it.
    fn unlistable(&self, directory: &Directory, full: &Path, error: std::io::Error, batch: &mut Found) -> Result<()> {
        use std::io::ErrorKind as Io;
        if matches!(error.kind(), Io::NotFound | Io::NotADirectory) && !directory.prefix.is_empty() {
            self.note_absent(&directory.places, Vec::new(), batch);
            return Ok(());
        }
        if directory.places.is_empty() && !directory.prefix.is_empty() {
            batch
                .manifest
                .warnings
                .push(format!("skipped unreadable directory {}: {error}", full.display()));
            return Ok(());
        }
        Err(Error::sync(format!("read directory {}", full.display())).with_source(error))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn place_number(place: usize) -> Result<u32> {
    u32::try_from(place).or_error(ErrorKind::Sync, || "the git index has too many entries".to_owned())
}

/// Git never lists its own directory, however it is spelled on file systems without case.
pub(super) fn is_git_directory_name(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b".git")
}

/// Whether a directory is the work tree of a repository of its own.
fn is_repository(directory: &Path) -> bool {
    let git = directory.join(".git");
    let Ok(metadata) = git.symlink_metadata() else {
        return false;
    };
    if metadata.is_dir() {
        return gix::discover::is_git(&git).is_ok();
    }
    match gix::discover::path::from_gitdir_file(&git) {
        Ok(target) => gix::discover::is_git(&target).is_ok(),
        Err(_) => false,
    }
}

/// What the stat cache and the index compare.
#[cfg(unix)]
pub(crate) fn stat_key(metadata: &Metadata) -> StatKey {
    use std::os::unix::fs::MetadataExt as _;
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    StatKey {
        size: metadata.len(),
        mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
    }
}

/// What the stat cache and the index compare.
#[cfg(not(unix))]
pub(crate) fn stat_key(metadata: &Metadata) -> StatKey {
    let mtime = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let mtime_ns = mtime
        .and_then(|time| i64::try_from(time.as_nanos()).ok())
        .unwrap_or_default();
    StatKey {
        size: metadata.len(),
        mtime_ns,
        ctime_ns: mtime_ns,
        inode: 0,
    }
}

#[cfg(unix)]
fn mode_bits(metadata: &Metadata) -> u16 {
    use std::os::unix::fs::PermissionsExt as _;
    u16::try_from(metadata.permissions().mode() & u32::from(MODE)).unwrap_or(0o644)
}

#[cfg(not(unix))]
fn mode_bits(metadata: &Metadata) -> u16 {
    if metadata.permissions().readonly() {
        0o444 & MODE
    } else {
        0o644 & MODE
    }
}
