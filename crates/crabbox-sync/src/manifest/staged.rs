//! The difference between the commit that is checked out and the index.
//!
//! The index remembers the tree of each directory that was not touched since, so only touched directories are read.

use std::collections::HashMap;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;
use gix::index::entry::{Mode, Stage};
use gix::index::extension::Tree;
use gix::objs::FindExt as _;

use super::tracked::Places;

/// A path of the commit that the index does not have.
pub(super) struct StagedDeletion {
    pub(super) path: Vec<u8>,
    /// It was a regular file.
    pub(super) regular: bool,
}

/// What is staged.
#[derive(Default)]
pub(super) struct Staged {
    /// Places of entries that the commit does not have, or has differently.
    pub(super) changed: Places,
    pub(super) deleted: Vec<StagedDeletion>,
}

/// Compares the commit that is checked out with the index.
pub(super) fn staged(repository: &gix::Repository, index: &gix::index::State) -> Result<Staged> {
    let failed = || "read the commit that is checked out".to_owned();
    let head = repository.head().or_error(ErrorKind::Sync, failed)?;
    let tree = match head.try_into_peeled_id().or_error(ErrorKind::Sync, failed)? {
        Some(id) => Some(
            id.object()
                .and_then(|object| object.peel_to_tree())
                .or_error(ErrorKind::Sync, failed)?
                .id,
        ),
        None => None,
    };
    let mut comparison = Comparison {
        repository,
        index,
        staged: Staged::default(),
    };
    let everything = 0..index.entries().len();
    match tree {
        Some(tree) => comparison.directory(&mut Vec::new(), &tree, everything, index.tree(), 0)?,
        None => everything.for_each(|place| comparison.staged.changed.insert(place)),
    }
    Ok(comparison.staged)
}

/// Trees of a repository that was made to exhaust the stack are refused.
const DEEPEST: usize = 1024;

struct Comparison<'a> {
    repository: &'a gix::Repository,
    index: &'a gix::index::State,
    staged: Staged,
}

impl Comparison<'_> {
    /// Compares one tree of the commit with the entries below a prefix.
    fn directory(
        &mut self,
        prefix: &mut Vec<u8>,
        tree: &gix::oid,
        range: std::ops::Range<usize>,
        known: Option<&Tree>,
        level: usize,
    ) -> Result<()> {
        if level > DEEPEST {
            return Err(Error::sync(format!(
                "directories of the commit that is checked out nest deeper than {DEEPEST}"
            )));
        }
        if known.is_some_and(|known| known.num_entries.is_some() && known.id == tree) {
            return Ok(());
        }
        let mut buffer = Vec::new();
        let content = self
            .repository
            .objects
            .find_tree(tree, &mut buffer)
            .or_error(ErrorKind::Sync, || {
                format!(
                    "read the tree of directory `{}` in the commit that is checked out",
                    prefix.as_bstr()
                )
            })?;
        let mut in_commit: HashMap<&[u8], (gix::objs::tree::EntryMode, &gix::oid)> = HashMap::new();
        for entry in &content.entries {
            in_commit.insert(entry.filename, (entry.mode, entry.oid));
        }
        let depth = prefix.len();
        let mut place = range.start;
        while place < range.end {
            let entry = &self.index.entries()[place];
            let path: &[u8] = entry.path(self.index);
            let rest = &path[depth..];
            let (name, end) = match rest.find_byte(b'/') {
                Some(slash) => {
                    let below = &path[..=depth + slash];
                    let length = self.index.entries()[place..range.end]
                        .partition_point(|entry| entry.path(self.index).starts_with(below));
                    (&rest[..slash], place + length)
                }
                None => (rest, place + 1),
            };
            let is_directory = name.len() < rest.len();
            match in_commit.get(name) {
                Some((mode, id)) if is_directory && mode.is_tree() => {
                    let id = (*id).to_owned();
                    in_commit.remove(name);
                    // A sparse index holds a whole directory in one entry.
                    if !(entry.mode == Mode::DIR && entry.id == id) {
                        let known = known.and_then(|known| child(known, name));
                        let name = name.to_vec();
                        prefix.extend_from_slice(&name);
                        prefix.push(b'/');
                        self.directory(prefix, &id, place..end, known, level + 1)?;
                        prefix.truncate(depth);
                    }
                }
                Some((mode, id)) if !is_directory && !mode.is_tree() => {
                    let same = entry.stage() == Stage::Unconflicted
                        && *entry.id == **id
                        && entry
                            .mode
                            .to_tree_entry_mode()
                            .is_some_and(|entry| entry.kind() == mode.kind());
                    if !same {
                        self.staged.changed.insert(place);
                    }
                    // Further stages of this path follow.
                    let more = self
                        .index
                        .entries()
                        .get(place + 1)
                        .is_some_and(|next| next.path(self.index) == path);
                    if !more {
                        in_commit.remove(name);
                    }
                }
                _ => (place..end).for_each(|place| self.staged.changed.insert(place)),
            }
            place = end;
        }
        let gone: Vec<(Vec<u8>, gix::objs::tree::EntryMode, gix::ObjectId)> = in_commit
            .into_iter()
            .map(|(name, (mode, id))| (name.to_vec(), mode, id.to_owned()))
            .collect();
        for (name, mode, id) in gone {
            prefix.extend_from_slice(&name);
            if mode.is_tree() {
                prefix.push(b'/');
                self.directory(prefix, &id, 0..0, None, level + 1)?;
            } else if !mode.is_commit() {
                self.staged.deleted.push(StagedDeletion {
                    path: prefix.clone(),
                    regular: mode.is_blob(),
                });
            }
            prefix.truncate(depth);
        }
        Ok(())
    }
}

fn child<'a>(tree: &'a Tree, name: &[u8]) -> Option<&'a Tree> {
    tree.children.iter().find(|child| child.name.as_slice() == name)
}
