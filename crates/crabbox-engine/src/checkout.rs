//! The checkout on this machine: where it is, what of it travels, and whether it may.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crabbox_core::runtime::Environment;
use crabbox_core::{Error, ErrorKind, Result};
use crabbox_sync::archive::ArchiveOptions;
use crabbox_sync::guardrail::{candidate_line, protected_line};
use crabbox_sync::remote_archive::PreparedArchive;
use crabbox_sync::{Guardrail, Limits, Manifest, Rules, Scope, Source, SourceOptions, StatCache, TreeHash};

use crate::engine::{Engine, blocking};
use crate::event::Event;

/// How often a sync looks at a checkout that somebody writes to.
const LOOKS: usize = 4;

/// One look at the checkout: what would travel.
pub(crate) struct Look {
    source: Arc<Source>,
    pub(crate) root: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) cache: StatCache,
    /// Everything as one archive, made before a box was paid for, until the sync takes it.
    pub(crate) archive: Mutex<Option<PreparedArchive>>,
}

impl Look {
    /// The identity of the tree, hashed where it is; what the cache knows is not read again.
    pub(crate) fn tree_hash(&self) -> Result<TreeHash> {
        TreeHash::of(&self.root, &self.manifest, &self.cache)
    }
}

/// A checkout that may not be syncable.
#[derive(Clone)]
pub(crate) struct Checkout {
    pub(crate) source: Arc<Source>,
}

impl Checkout {
    pub(crate) fn root(&self) -> &Path {
        self.source.root()
    }

    pub(crate) fn root_text(&self) -> String {
        self.source.root().to_string_lossy().into_owned()
    }

    pub(crate) fn name(&self) -> &str {
        self.source.name()
    }
}

impl Engine {
    /// Finds the checkout that the working directory belongs to.
    pub(crate) fn source(&self) -> Result<Checkout> {
        let sync = self.settings().sync();
        let options = source_options(
            &self.shared.runtime.environment,
            &self.shared.directory,
            sync.directory_only(),
        );
        let source = Source::discover(&self.shared.directory, &options)?;
        Ok(Checkout {
            source: Arc::new(source),
        })
    }

    /// Looks at the checkout and refuses one that is too large, before anything is paid for. What counts is what changed, or
    /// everything where the `whole` checkout travels each time.
    pub(crate) async fn look_at(&self, checkout: &Checkout, force_large: bool, whole: bool) -> Result<Look> {
        checkout.source.require_syncable()?;
        let look = self.see(Arc::clone(&checkout.source)).await?;
        self.report(&look, force_large, whole)?;
        Ok(look)
    }

    /// Looks again when a file changed after a look, unless that happened too often. Says nothing: what is said may be
    /// what changes a file, such as a log that is written into the checkout.
    ///
    /// # Errors
    /// The given one when it is about something else, or when somebody keeps writing to the checkout.
    pub(crate) async fn look_again(&self, look: &Look, attempt: usize, error: Error) -> Result<Arc<Look>> {
        let changed = error.kind() == ErrorKind::Sync && error.is_retryable();
        if !changed || attempt >= LOOKS {
            return Err(error);
        }
        self.see(Arc::clone(&look.source)).await.map(Arc::new)
    }

    async fn see(&self, source: Arc<Source>) -> Result<Look> {
        let sync = self.settings().sync();
        let cache_file = StatCache::file_for(&self.shared.runtime.directories.cache.join("stat"), source.root());
        blocking(move || {
            let rules = Rules::load(source.root(), &sync.exclude, &sync.include)?;
            let cache = StatCache::load(&cache_file, source.root());
            let manifest = Manifest::build(&source, &rules, &cache)?;
            Ok(Look {
                root: source.root().to_path_buf(),
                source,
                manifest,
                cache,
                archive: Mutex::new(None),
            })
        })
        .await
    }

    /// Packs everything into one archive. The look that it holds is the given one, or a later one.
    pub(crate) async fn pack(&self, mut look: Arc<Look>) -> Result<(Arc<Look>, PreparedArchive)> {
        let mut attempt = 1;
        loop {
            let seen = Arc::clone(&look);
            let build = move || PreparedArchive::build(&seen.root, &seen.manifest, &ArchiveOptions::default());
            match blocking(build).await {
                Ok(archive) => return Ok((look, archive)),
                Err(error) => look = self.look_again(&look, attempt, error).await?,
            }
            attempt += 1;
        }
    }

    fn report(&self, look: &Look, force_large: bool, whole: bool) -> Result<()> {
        let sync = self.settings().sync();
        for warning in look.manifest.warnings() {
            self.warn(warning.clone());
        }
        self.emit(Event::SyncCandidate {
            line: candidate_line(&look.manifest),
        });
        if let Some(line) = protected_line(&look.manifest) {
            self.info(line);
        }
        let limits = Limits {
            warn_files: sync.warn_files,
            warn_bytes: sync.warn_bytes,
            fail_files: sync.fail_files,
            fail_bytes: sync.fail_bytes,
        };
        let scope = if whole {
            Scope::Candidate
        } else {
            Scope::of(&look.manifest)
        };
        let guardrail = Guardrail::new(&look.manifest, scope, limits, force_large || sync.allow_large);
        for line in guardrail.lines() {
            self.info(line);
        }
        guardrail.check()
    }

    /// Plans a sync without any box.
    ///
    /// # Errors
    /// `Sync` when the checkout cannot be looked at. A failed guardrail is part of the plan.
    pub async fn sync_plan(&self, limit: usize) -> Result<crabbox_sync::Plan> {
        let checkout = self.source()?;
        let sync = self.settings().sync();
        let cache_directory = self.shared.runtime.directories.cache.join("stat");
        blocking(move || {
            let source = checkout.source;
            let rules = Rules::load(source.root(), &sync.exclude, &sync.include)?;
            let cache = StatCache::load(&StatCache::file_for(&cache_directory, source.root()), source.root());
            let manifest = Manifest::build(&source, &rules, &cache)?;
            let limits = Limits {
                warn_files: sync.warn_files,
                warn_bytes: sync.warn_bytes,
                fail_files: sync.fail_files,
                fail_bytes: sync.fail_bytes,
            };
            let guardrail = Guardrail::new(&manifest, Scope::of(&manifest), limits, sync.allow_large);
            let plan = crabbox_sync::Plan::new(&manifest, &guardrail, limit);
            if !cache.is_clean() {
                cache.save(&manifest)?;
            }
            Ok(plan)
        })
        .await
    }
}

/// What git's own variables say about where the repository is.
fn source_options(environment: &Environment, directory: &Path, plain: bool) -> SourceOptions {
    let path = |name: &str| environment.get(name).map(|value| directory.join(value));
    let ceilings = environment
        .get("GIT_CEILING_DIRECTORIES")
        .map(|list| std::env::split_paths(list).filter(|path| path.is_absolute()).collect())
        .unwrap_or_default();
    SourceOptions {
        directory: plain,
        ceilings,
        git_dir: path("GIT_DIR"),
        git_work_tree: path("GIT_WORK_TREE"),
        across_filesystems: environment
            .get("GIT_DISCOVERY_ACROSS_FILESYSTEM")
            .is_some_and(|value| matches!(value, "1" | "true" | "yes" | "on")),
    }
}
