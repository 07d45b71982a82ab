//! The archive benchmark's child: packs a checkout through the sync crate.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use crabbox_sync::archive::{ArchiveFormat, ArchiveOptions, write_archive};
use crabbox_sync::{Manifest, Rules, Source, SourceOptions, StatCache};

/// Packs the checkout at `source` into `archive`, the look at the checkout included.
pub(crate) fn pack(source: &Path, archive: &Path) -> Result<()> {
    let source = Source::discover(source, &SourceOptions::default())?;
    let rules = Rules::load(source.root(), &[], &[])?;
    let manifest = Manifest::build(&source, &rules, &StatCache::in_memory())?;
    let options = ArchiveOptions {
        format: ArchiveFormat::TarZst,
        ..ArchiveOptions::default()
    };
    let file = File::create(archive).with_context(|| format!("cannot create {}", archive.display()))?;
    write_archive(source.root(), &manifest, &options, file)?;
    Ok(())
}
