//! A git checkout: one walk, what is staged, and what is gone.

use std::ops::Range;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::{BStr, ByteSlice as _};
use gix::glob::pattern::Case;
use gix::index::entry::{Flags, Mode, Stage};

use super::Manifest;
use super::content::mark_changed;
use super::ignore::{Ignores, Sparse};
use super::staged::{Staged, staged};
use super::tracked::{Policy, Tracked};
use super::walk::{is_git_directory_name, walk};
use crate::rules::{Rules, Verdict, is_safe_path};
use crate::source::Source;
use crate::stat_cache::StatCache;

/// Looks at a git checkout.
pub(super) fn checkout(source: &Source, rules: &Rules, cache: &StatCache) -> Result<Manifest> {
    let repository = source
        .repository()
        .ok_or_else(|| Error::sync("the source has no repository"))?;
    let index = repository
        .index_or_empty()
        .or_error(ErrorKind::Sync, || "read the git index".to_owned())?;
    let index: &gix::index::State = &index;
    refuse_mixed_conflicts(index)?;
    let Staged { changed, deleted } = staged(&repository, index)?;
    let fold = repository.config_snapshot().boolean("core.ignoreCase") == Some(true);
    let tracked = Tracked {
        entries: index.entries(),
        backing: index.path_backing(),
        case: if fold { Case::Fold } else { Case::Sensitive },
        sparse: Sparse::of(&repository),
        staged: changed,
        policy: Policy::of(&repository, index),
    };
    let mut found = walk(source.root(), rules, Some(&tracked), &Ignores::global(&repository))?;
    found.manifest.sort();
    mark_changed(&mut found.manifest, source, index, &tracked, &found.unsure, cache)?;

    let mut gone = absent_in_scope(rules, &tracked, &found.absent)?;
    for deletion in deleted {
        if is_in_scope(rules, &deletion.path, deletion.regular) {
            gone.push(deletion.path);
        }
    }
    Ok(found.manifest.finish(gone))
}

/// A path that one side of a conflict made a file and the other a submodule has no content that could be sent.
fn refuse_mixed_conflicts(index: &gix::index::State) -> Result<()> {
    let mut stages: Vec<(&BStr, Mode)> = index
        .entries()
        .iter()
        .filter(|entry| entry.stage() != Stage::Unconflicted)
        .map(|entry| (entry.path(index), entry.mode))
        .collect();
    stages.sort_by_key(|(path, _)| *path);
    let mixed = stages
        .windows(2)
        .find(|pair| pair[0].0 == pair[1].0 && (pair[0].1 == Mode::COMMIT) != (pair[1].1 == Mode::COMMIT));
    match mixed {
        None => Ok(()),
        Some(pair) => Err(Error::sync(format!(
            "verify sync manifest scope: conflict between a file and a submodule: `{}`",
            pair[0].0
        ))
        .with_hint("resolve the merge conflict first")),
    }
}

fn is_in_scope(rules: &Rules, path: &[u8], regular: bool) -> bool {
    is_safe_path(path)
        && !path.split(|byte| *byte == b'/').any(is_git_directory_name)
        && rules.judge_path(path, regular) != Verdict::Stays
}

/// The tracked paths that are gone from disk. One that a sparse checkout left out is an error: it was not deleted.
fn absent_in_scope(rules: &Rules, tracked: &Tracked<'_>, absent: &[Range<u32>]) -> Result<Vec<Vec<u8>>> {
    let mut gone = Vec::new();
    let mut left_out: Option<&[u8]> = None;
    let mut count = 0_usize;
    for place in absent.iter().flat_map(|range| range.start as usize..range.end as usize) {
        let entry = &tracked.entries[place];
        let path = tracked.path(place);
        if entry.mode == Mode::COMMIT {
            continue;
        }
        let regular = matches!(entry.mode, Mode::FILE | Mode::FILE_EXECUTABLE);
        // One entry stands for a whole directory that a sparse index left out.
        let whole_directory = entry.mode == Mode::DIR;
        let judged = if whole_directory {
            path.strip_suffix(b"/").unwrap_or(path)
        } else {
            path
        };
        if whole_directory {
            let mut standing = rules.root();
            for (slash, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                standing = rules.enter(standing, &path[..slash]);
            }
            if rules.sealed(standing, judged) {
                continue;
            }
        } else if !is_in_scope(rules, judged, regular) {
            continue;
        }
        let hidden = whole_directory || entry.flags.contains(Flags::SKIP_WORKTREE);
        if hidden || tracked.sparse.may_leave_out(path, tracked.case) {
            count += 1;
            left_out = Some(left_out.map_or(path, |first| first.min(path)));
        } else {
            gone.push(path.to_vec());
        }
    }
    match left_out {
        None => Ok(gone),
        Some(path) => Err(Error::sync(format!(
            "verify sync manifest scope: {count} tracked paths are not on disk because of sparse checkout or \
             skip-worktree, such as `{}`",
            path.as_bstr()
        ))
        .with_hint("run `git sparse-checkout disable`, or exclude these paths with `sync.exclude`")),
    }
}
