//! Archive sync to a box that is reached through `Remote` alone.
#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "tests write files and start the oracles as they like"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{ByteWriter, ExecRequest, ExecStatus, OutputSink, OutputStream, Remote, RemotePath, Upload};
use crabbox_core::spec::Target;
use crabbox_core::{Error, ErrorKind, Result};
use crabbox_sync::archive::ArchiveOptions;
use crabbox_sync::remote_archive::{PreparedArchive, RemoteArchiveOptions, sync_archive};
use crabbox_sync::{Manifest, Source, SourceOptions, StatCache};
use support::no_rules;
use tokio::io::AsyncWriteExt as _;

/// A box that is this machine.
#[derive(Default)]
struct Here {
    commands: Mutex<Vec<String>>,
    /// A script that contains this text fails.
    fail: Option<&'static str>,
    /// Uploads never end.
    stuck: bool,
}

#[async_trait]
impl Remote for Here {
    fn target(&self) -> Target {
        Target::LINUX
    }

    async fn exec(&self, request: ExecRequest, output: &mut dyn OutputSink) -> Result<ExecStatus> {
        self.commands.lock().unwrap().push(request.argv[2].clone());
        if self.fail.is_some_and(|text| request.argv[2].contains(text)) {
            return Ok(ExecStatus::exited(9));
        }
        let result = tokio::process::Command::new(&request.argv[0])
            .args(&request.argv[1..])
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        output.write(OutputStream::Stdout, Bytes::from(result.stdout)).await?;
        output.write(OutputStream::Stderr, Bytes::from(result.stderr)).await?;
        Ok(ExecStatus::exited(result.status.code().unwrap_or(-1)))
    }

    async fn upload(&self, destination: &RemotePath, mut upload: Upload) -> Result<()> {
        let mut file = tokio::fs::File::create(destination.as_str()).await.unwrap();
        if self.stuck {
            std::future::pending::<()>().await;
        }
        tokio::io::copy(&mut upload.content, &mut file).await.unwrap();
        file.flush().await.unwrap();
        Ok(())
    }

    async fn download(&self, _source: &RemotePath, _destination: ByteWriter<'_>) -> Result<u64> {
        Err(Error::remote("this box gives nothing back"))
    }
}

struct Ground {
    directory: tempfile::TempDir,
    archive: PreparedArchive,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        std::fs::create_dir_all(source.join("d")).unwrap();
        std::fs::create_dir(directory.path().join("tmp")).unwrap();
        std::fs::create_dir(directory.path().join("box")).unwrap();
        std::fs::write(source.join("d/new file"), "new").unwrap();
        let options = SourceOptions {
            directory: true,
            ..SourceOptions::default()
        };
        let source = Source::discover(&source, &options).unwrap();
        let manifest = Manifest::build(&source, &no_rules(), &StatCache::in_memory()).unwrap();
        let archive = PreparedArchive::build(source.root(), &manifest, &ArchiveOptions::default()).unwrap();
        Self { directory, archive }
    }

    fn workdir(&self) -> PathBuf {
        self.directory.path().join("box/it's work")
    }

    fn options(&self, delete: bool) -> RemoteArchiveOptions {
        let mut options = RemoteArchiveOptions::new().unwrap();
        options.delete = delete;
        options.directory = remote_path(&self.directory.path().join("tmp"));
        options
    }

    fn old_workspace(&self) {
        std::fs::create_dir(self.workdir()).unwrap();
        std::fs::write(self.workdir().join("old"), "old").unwrap();
    }

    /// Nothing but the workspace is left on the box.
    fn is_clean(&self) -> bool {
        let count = |name: &str| std::fs::read_dir(self.directory.path().join(name)).unwrap().count();
        count("tmp") == 0 && count("box") == usize::from(self.workdir().exists())
    }
}

fn remote_path(path: &Path) -> RemotePath {
    path.to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn with_deletion_the_workspace_is_replaced() {
    let ground = Ground::new();
    let workdir = remote_path(&ground.workdir());
    for round in 0..2 {
        if round == 1 {
            std::fs::write(ground.workdir().join("own"), "o").unwrap();
        }
        let report = sync_archive(&Here::default(), &ground.archive, &workdir, &ground.options(true))
            .await
            .unwrap();
        let names: Vec<&str> = report.phases.iter().map(|phase| phase.name).collect();
        assert_eq!(names, ["archive", "upload", "prepare", "extract", "replace", "cleanup"]);
        assert!(report.warnings.is_empty());
        assert_eq!(std::fs::read(ground.workdir().join("d/new file")).unwrap(), b"new");
        assert!(!ground.workdir().join("own").exists());
        assert!(ground.is_clean());
    }
}

#[tokio::test]
async fn without_deletion_the_workspace_is_filled() {
    let ground = Ground::new();
    ground.old_workspace();
    let workdir = remote_path(&ground.workdir());
    let report = sync_archive(&Here::default(), &ground.archive, &workdir, &ground.options(false))
        .await
        .unwrap();
    let names: Vec<&str> = report.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(names, ["archive", "upload", "prepare", "extract", "cleanup"]);
    assert!(ground.workdir().join("old").exists() && ground.workdir().join("d/new file").exists());
    assert!(ground.is_clean());
}

#[tokio::test]
async fn a_failing_step_keeps_the_old_workspace_and_cleans_up() {
    for step in ["mkdir", "tar", "previous"] {
        let ground = Ground::new();
        ground.old_workspace();
        let here = Here {
            fail: Some(step),
            ..Here::default()
        };
        let workdir = remote_path(&ground.workdir());
        let error = sync_archive(&here, &ground.archive, &workdir, &ground.options(true))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Sync, "{step}");
        assert_eq!(std::fs::read(ground.workdir().join("old")).unwrap(), b"old", "{step}");
        assert!(ground.is_clean(), "{step}");
    }
}

#[tokio::test]
async fn time_and_cancellation_end_it_and_clean_up() {
    for cancelled in [false, true] {
        let ground = Ground::new();
        ground.old_workspace();
        let here = Here {
            stuck: true,
            ..Here::default()
        };
        let mut options = ground.options(true);
        if cancelled {
            let cancel = options.cancel.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                cancel.cancel();
            });
        } else {
            options.timeout = Some(ground.archive.took() + Duration::from_millis(50));
        }
        let workdir = remote_path(&ground.workdir());
        let error = sync_archive(&here, &ground.archive, &workdir, &options)
            .await
            .unwrap_err();
        assert!(error.is_cancelled());
        assert_eq!(error.message().contains("timed out after"), !cancelled, "{error}");
        assert!(ground.workdir().join("old").exists() && ground.is_clean());
        assert!(here.commands.lock().unwrap().last().unwrap().starts_with("rm -rf"));
    }
}

#[tokio::test]
async fn nothing_starts_after_a_cancellation() {
    let ground = Ground::new();
    let options = ground.options(true);
    options.cancel.cancel();
    let here = Here::default();
    let error = sync_archive(&here, &ground.archive, &remote_path(&ground.workdir()), &options)
        .await
        .unwrap_err();
    assert!(error.is_cancelled());
    assert_eq!(here.commands.lock().unwrap().len(), 1, "only the cleanup");
}

#[tokio::test]
async fn the_root_is_no_workspace() {
    let ground = Ground::new();
    let error = sync_archive(
        &Here::default(),
        &ground.archive,
        &"/".parse().unwrap(),
        &ground.options(true),
    )
    .await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Usage);
}
