//! The slow answer: whether a file's content is what the index has, when its stat cannot tell.
//!
//! Line endings, encodings and `$Id$` are converted as git would. Filter programs never run, so a file that has one
//! counts as changed as soon as its stat is not what the index has.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crabbox_core::{ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;
use gix::filter::plumbing::pipeline::convert::ToGitOutcome;
use gix::index::entry::Mode;
use gix::objs::{Find as _, Kind};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::tracked::Tracked;
use super::{CHANGED, Manifest};
use crate::paths::{full_path, open_file, to_bytes, to_path};
use crate::source::Source;
use crate::stat_cache::{StatCache, StatKey};

/// Reads the files at the given places of the index and marks those that changed. A file that cannot be read, or that
/// moved on meanwhile, counts as changed.
pub(super) fn mark_changed(
    manifest: &mut Manifest,
    source: &Source,
    index: &gix::index::State,
    tracked: &Tracked<'_>,
    unsure: &[u32],
    cache: &StatCache,
) -> Result<()> {
    let Some(repository) = source.shared_repository().filter(|_| !unsure.is_empty()) else {
        return Ok(());
    };
    let converts = converts(&repository.to_thread_local(), index, manifest);
    let changed: Vec<usize> = unsure
        .par_iter()
        .map_init(
            || Reader::new(source.root(), repository.to_thread_local(), index, converts),
            |reader, place| -> Result<Option<usize>> {
                let path = tracked.path(*place as usize);
                let Some(entry) = manifest.find(path) else {
                    return Ok(None);
                };
                let same = reader.is_same(
                    path,
                    &manifest.entry(entry).key,
                    &tracked.entries[*place as usize],
                    cache,
                )?;
                Ok((!same).then_some(entry))
            },
        )
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    for entry in changed {
        manifest.entries[entry].bits |= CHANGED;
    }
    Ok(())
}

/// Whether any file may be stored otherwise than it is on disk.
fn converts(repository: &gix::Repository, index: &gix::index::State, manifest: &Manifest) -> bool {
    let config = repository.config_snapshot();
    let is_attributes = |path: &[u8]| path == b".gitattributes" || path.ends_with(b"/.gitattributes");
    config
        .string("core.autocrlf")
        .is_some_and(|value| !value.eq_ignore_ascii_case(b"false"))
        || config.string("core.attributesFile").is_some()
        || repository.common_dir().join("info/attributes").exists()
        || repository
            .attribute_global_paths()
            .is_ok_and(|paths| paths.iter().any(|path| path.exists()))
        || index.entries().iter().any(|entry| is_attributes(entry.path(index)))
        || manifest.iter().any(|entry| is_attributes(entry.path))
}

struct Reader<'a> {
    root: &'a Path,
    repository: gix::Repository,
    index: &'a gix::index::State,
    converts: bool,
    pipeline: Option<(gix::filter::plumbing::Pipeline, gix::worktree::Stack)>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Path, repository: gix::Repository, index: &'a gix::index::State, converts: bool) -> Self {
        Self {
            root,
            repository,
            index,
            converts,
            pipeline: None,
        }
    }

    fn is_same(&mut self, path: &[u8], key: &StatKey, entry: &gix::index::Entry, cache: &StatCache) -> Result<bool> {
        // Zero stands for a size that the index does not want to be trusted.
        if !self.converts && entry.stat.size != 0 && u64::from(entry.stat.size) != key.size & 0xffff_ffff {
            return Ok(false);
        }
        if let Some(blob) = cache.blob(path, key) {
            return Ok(blob == entry.id.as_bytes());
        }
        let started = StatCache::now();
        let Some(blob) = self.blob(path, key, entry)? else {
            return Ok(false);
        };
        cache.learn_blob(path, *key, started, blob.as_bytes());
        Ok(blob == entry.id)
    }

    /// The id that git would store the file under; nothing when it cannot be read or moved on.
    fn blob(&mut self, path: &[u8], key: &StatKey, entry: &gix::index::Entry) -> Result<Option<gix::ObjectId>> {
        let full = full_path(self.root, path);
        let kind = self.repository.object_hash();
        let failed = || format!("hash `{}`", path.as_bstr());
        let link = full.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
        if link {
            let Ok(target) = full.read_link() else { return Ok(None) };
            let text = to_bytes(target.as_os_str());
            return gix::objs::compute_hash(kind, Kind::Blob, &text)
                .map(Some)
                .or_error(ErrorKind::Sync, failed);
        }
        let Ok(mut file) = open_file(&full) else {
            return Ok(None);
        };
        let converted = self.converts && entry.mode != Mode::SYMLINK;
        let blob = if converted {
            let text = self.convert(path, file.try_clone().or_error(ErrorKind::Sync, failed)?)?;
            match text {
                Some(text) => gix::objs::compute_hash(kind, Kind::Blob, &text),
                None => return Ok(None),
            }
        } else {
            let never = AtomicBool::new(false);
            gix::objs::compute_stream_hash(
                kind,
                Kind::Blob,
                &mut file,
                key.size,
                &mut gix::progress::Discard,
                &never,
            )
        };
        // A file that shrank meanwhile fails here, one that grew or was rewritten shows it in its stat.
        let Ok(blob) = blob else { return Ok(None) };
        let now = file.metadata().ok().map(|metadata| super::walk::stat_key(&metadata));
        Ok((now == Some(*key)).then_some(blob))
    }

    fn convert(&mut self, path: &[u8], file: File) -> Result<Option<Vec<u8>>> {
        let failed = || format!("convert `{}` as git would", path.as_bstr());
        if self.pipeline.is_none() {
            let mut options = gix::filter::Pipeline::options(&self.repository).or_error(ErrorKind::Sync, failed)?;
            options.drivers.clear();
            let context = self.repository.command_context().or_error(ErrorKind::Sync, failed)?;
            let pipeline = gix::filter::plumbing::Pipeline::new(context, self.repository.object_hash(), options);
            let stack = self
                .repository
                .attributes_only(
                    self.index,
                    gix::worktree::stack::state::attributes::Source::WorktreeThenIdMapping,
                )
                .or_error(ErrorKind::Sync, failed)?
                .detach();
            self.pipeline = Some((pipeline, stack));
        }
        let Some((pipeline, stack)) = &mut self.pipeline else {
            return Ok(None);
        };
        let objects = &self.repository.objects;
        let relative = to_path(path);
        let platform = stack
            .at_entry(path.as_bstr(), None, objects)
            .or_error(ErrorKind::Sync, failed)?;
        let outcome = pipeline.convert_to_git(
            file,
            &relative,
            &mut |_, attributes| {
                platform.matching_attributes(attributes);
            },
            &mut |buffer| -> gix::Result<Option<()>> {
                let Some(entry) = self.index.entry_by_path(path.as_bstr()) else {
                    return Ok(None);
                };
                let object = objects.try_find(&entry.id, buffer)?;
                Ok(object.filter(|object| object.kind == Kind::Blob).map(|_| ()))
            },
        );
        let mut text = Vec::new();
        match outcome {
            Ok(ToGitOutcome::Unchanged(mut file)) => {
                if file.read_to_end(&mut text).is_err() {
                    return Ok(None);
                }
            }
            Ok(ToGitOutcome::Buffer(buffer)) => text.extend_from_slice(buffer),
            // Round-trip checks that the user turned on fail for files that git would refuse to add: changed.
            Ok(ToGitOutcome::Process(_)) | Err(_) => return Ok(None),
        }
        Ok(Some(text))
    }
}
