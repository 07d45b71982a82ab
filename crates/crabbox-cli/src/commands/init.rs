//! `crabbox init`

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Component, Path, PathBuf};

use clap::Args;
use crabbox_core::{Error, IntoError as _, Result};

use crate::ending::Ending;
use crate::init::{detect, render};
use crate::session::Session;

/// Writes a commented config file for this repository.
#[derive(Args, Clone, Debug)]
pub(crate) struct InitArgs {
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
    /// Fill the jobs from the repository's build files.
    #[arg(long)]
    detect: bool,
    /// The file to write, below the repository.
    #[arg(long, value_name = "FILE", default_value = ".crabbox.yaml")]
    config: PathBuf,
}

/// Runs it.
pub(crate) fn run(args: &InitArgs, session: &Session) -> anyhow::Result<Ending> {
    let root = crabbox_config::repository_root(&session.directory);
    refuse_outside(&args.config)?;
    let path = root.join(&args.config);
    let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let jobs = if args.detect { detect(&root) } else { Vec::new() };
    write(&path, &render(&name, &jobs), args.force)?;
    session.output.line(format!("wrote {}", path.display()))?;
    if args.detect && jobs.is_empty() {
        session.output.info("no build files were recognised; add jobs by hand");
    }
    for job in &jobs {
        session
            .output
            .info(&format!("detected {}: {}", job.tool, job.at_root()));
    }
    Ok(Ending::success())
}

fn refuse_outside(path: &Path) -> Result<()> {
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if inside && path.file_name().is_some() {
        return Ok(());
    }
    Err(
        Error::usage(format!("not a file below the repository: `{}`", path.display()))
            .with_hint("write a relative path without `..`, such as `.crabbox.yaml`"),
    )
}

fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    let refused = |error: std::io::Error| {
        let failed: std::io::Result<()> = Err(error);
        failed.or_error(crabbox_core::ErrorKind::Usage, || {
            format!("cannot write {}", path.display())
        })
    };
    if let Some(parent) = path.parent()
        && let Err(error) = std::fs::create_dir_all(parent)
    {
        return refused(error);
    }
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    match options.open(path).and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Error::usage(format!("file exists already: `{}`", path.display()))
                .with_hint("use --force to replace it, or --config to write another file"))
        }
        Err(error) => refused(error),
    }
}
