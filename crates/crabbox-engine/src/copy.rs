//! Copying between this machine and a box: single files as they are, directories as one tar stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{ExecRequest, OutputSink, OutputStream, RemotePath, Stdin, Upload};
use crabbox_core::{Error, ErrorKind, IntoError as _, Remote, Result};
use crabbox_sync::extract::{ExtractOptions, LinkPolicy, extract};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::SyncIoBridge;

use crate::api::{CopyOutcome, CopyPath, CopyRequest};
use crate::engine::{Engine, blocking};

/// Bytes in flight between the two ends of a stream.
const PIPE_BYTES: usize = 512 * 1024;

/// What the box says about a path: `dir`, `file`, `none` or `other`.
const KIND: &str = r#"if [ -d "$1" ]; then echo dir; elif [ -f "$1" ]; then echo file; elif [ -e "$1" ]; then echo other; else echo none; fi"#;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Nothing,
}

impl Engine {
    /// Copies a file or a directory between this machine and a box.
    ///
    /// A directory, or a destination that ends in `/` or is a directory, takes the source under its own name, as `cp -R`
    /// does.
    ///
    /// # Errors
    /// `Usage` when both sides are on the same machine or the local side cannot be read or written; `Remote` when the
    /// box's side cannot.
    pub async fn copy(&self, request: CopyRequest) -> Result<CopyOutcome> {
        let (here, there, upload) = match (&request.source, &request.destination) {
            (CopyPath::Here(here), CopyPath::Box(there)) => (here.clone(), there.clone(), true),
            (CopyPath::Box(there), CopyPath::Here(here)) => (here.clone(), there.clone(), false),
            _ => {
                return Err(Error::usage("copy needs one side on this machine and one on the box")
                    .with_hint("write the box's side as SANDBOX:PATH"));
            }
        };
        let here = self.shared.directory.join(here);
        if upload {
            let found = std::fs::symlink_metadata(&here);
            found
                .or_error(ErrorKind::Usage, || format!("read `{}`", here.display()))
                .map_err(|error| error.with_hint("the side without `SANDBOX:` is a path of this machine"))?;
        }
        let lease = self.existing(&request.id).await?;
        let remote = lease.remote()?;
        let workdir = lease.workdir(self.source()?.name())?;
        let slash = there.ends_with('/');
        let there: RemotePath = if there.starts_with('/') {
            there.parse()?
        } else if there.trim_matches(['/', '.']).is_empty() {
            workdir
        } else {
            workdir.join(there.trim_start_matches("./").trim_end_matches('/'))?
        };
        let copied = async {
            if upload {
                let follow = request.follow_links;
                upload_any(&remote, here, there, slash, follow).await
            } else {
                download_any(&remote, there, here).await
            }
        };
        self.unless_cancelled(copied).await
    }
}

async fn kind(remote: &Arc<dyn Remote>, path: &RemotePath) -> Result<Kind> {
    let output = remote.output(ExecRequest::script(KIND, [path.as_str()])).await?;
    match String::from_utf8_lossy(&output).trim() {
        "dir" => Ok(Kind::Directory),
        "file" => Ok(Kind::File),
        "none" => Ok(Kind::Nothing),
        _ => Err(Error::remote(format!(
            "neither file nor directory on the box: `{path}`"
        ))),
    }
}

async fn upload_any(
    remote: &Arc<dyn Remote>,
    here: PathBuf,
    there: RemotePath,
    slash: bool,
    follow: bool,
) -> Result<CopyOutcome> {
    let name = here
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let existing = kind(remote, &there).await?;
    let inside = (slash || existing == Kind::Directory) && !name.is_empty();
    let target = if inside { there.join(&name)? } else { there };
    let words = || format!("read `{}`", here.display());
    let metadata = if follow {
        std::fs::metadata(&here)
    } else {
        std::fs::symlink_metadata(&here)
    };
    let metadata = metadata.or_error(ErrorKind::Usage, words)?;
    if metadata.is_file() {
        let file = tokio::fs::File::open(&here).await.or_error(ErrorKind::Usage, words)?;
        let upload = Upload {
            content: Box::pin(file),
            length: Some(metadata.len()),
            mode: mode(&metadata),
        };
        remote.upload(&target, upload).await?;
        return Ok(outcome(1, metadata.len()));
    }
    if metadata.is_dir() {
        if existing == Kind::File {
            return Err(Error::usage(format!("not a directory on the box: `{target}`"))
                .with_hint("a directory cannot replace a file; choose another destination"));
        }
        return upload_directory(remote, here, target, follow).await;
    }
    if metadata.is_symlink() {
        return upload_link(remote, &here, &target).await;
    }
    Err(Error::usage(format!(
        "neither file nor directory: `{}`",
        here.display()
    )))
}

/// Copies a link as a link, as it is copied within a directory.
async fn upload_link(remote: &Arc<dyn Remote>, here: &Path, there: &RemotePath) -> Result<CopyOutcome> {
    let link = std::fs::read_link(here).or_error(ErrorKind::Usage, || format!("read `{}`", here.display()))?;
    let Some(text) = link.to_str() else {
        return Err(Error::usage(format!("link is not UTF-8: `{}`", link.display()))
            .with_hint("copy what the link points to with -L"));
    };
    let script = r#"mkdir -p -- "${2%/*}/" && rm -f -- "$2" && ln -s -- "$1" "$2""#;
    let request = ExecRequest::script(script, [text, there.as_str()]);
    remote.output(request).await?;
    Ok(outcome(0, 0))
}

async fn upload_directory(
    remote: &Arc<dyn Remote>,
    here: PathBuf,
    target: RemotePath,
    follow: bool,
) -> Result<CopyOutcome> {
    let root = here.clone();
    let (files, bytes) = blocking(move || walk(&root, follow, &mut Vec::new())).await?;
    let (write_end, read_end) = tokio::io::duplex(PIPE_BYTES);
    let pack = tokio::task::spawn_blocking(move || {
        let mut pipe = SyncIoBridge::new(write_end);
        let mut builder = tar::Builder::new(&mut pipe);
        builder.follow_symlinks(follow);
        let words = || format!("read `{}`", here.display());
        builder
            .append_dir_all(".", &here)
            .and_then(|()| builder.finish())
            .or_error(ErrorKind::Usage, words)?;
        drop(builder);
        pipe.shutdown()
            .or_error(ErrorKind::Remote, || "send directory".to_owned())?;
        Ok::<_, Error>(())
    });
    let script = r#"mkdir -p -- "$1" && exec tar -C "$1" -xf -"#;
    let request = ExecRequest::script(script, [target.as_str()]).with_stdin(Stdin::Stream(Box::pin(read_end)));
    let unpacked = remote.output(request).await;
    let packed = pack.await.or_error(ErrorKind::Other, || "pack directory".to_owned())?;
    // The box's reason explains a broken pipe, not the other way round.
    unpacked?;
    packed?;
    Ok(outcome(files, bytes))
}

/// Counts regular files and their bytes, and finds what cannot be copied before anything is sent.
///
/// `above` holds the real paths of the directories that the walk is in, where links are followed.
fn walk(directory: &Path, follow: bool, above: &mut Vec<PathBuf>) -> Result<(u64, u64)> {
    let words = || format!("read `{}`", directory.display());
    if follow {
        let real = directory.canonicalize().or_error(ErrorKind::Usage, words)?;
        if above.contains(&real) {
            return Err(
                Error::usage(format!("link leads back to where it is: `{}`", directory.display()))
                    .with_hint("copy links as links, without -L"),
            );
        }
        above.push(real);
    }
    let mut total = (0, 0);
    for entry in std::fs::read_dir(directory).or_error(ErrorKind::Usage, words)? {
        let path = entry.or_error(ErrorKind::Usage, words)?.path();
        let metadata = if follow {
            std::fs::metadata(&path)
        } else {
            std::fs::symlink_metadata(&path)
        };
        let metadata = metadata
            .or_error(ErrorKind::Usage, || format!("read `{}`", path.display()))
            .map_err(|error| match follow {
                true => error.with_hint("copy links as links, without -L"),
                false => error,
            })?;
        if metadata.is_dir() {
            let below = walk(&path, follow, above)?;
            total = (total.0 + below.0, total.1 + below.1);
        } else if metadata.is_file() {
            total = (total.0 + 1, total.1 + metadata.len());
        }
    }
    if follow {
        above.pop();
    }
    Ok(total)
}

async fn download_any(remote: &Arc<dyn Remote>, there: RemotePath, here: PathBuf) -> Result<CopyOutcome> {
    let inside = here.is_dir() && there.as_str() != "/";
    let target = if inside { here.join(there.file_name()) } else { here };
    match kind(remote, &there).await? {
        Kind::Nothing => Err(Error::remote(format!("no such file on the box: `{there}`"))
            .with_hint("relative paths start at the workspace")),
        Kind::File => download_file(remote, &there, &target).await,
        Kind::Directory => download_directory(remote, &there, target).await,
    }
}

async fn download_file(remote: &Arc<dyn Remote>, there: &RemotePath, target: &Path) -> Result<CopyOutcome> {
    let words = || format!("write `{}`", target.display());
    let parent = target
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(
            Error::usage(format!("directory does not exist: `{}`", parent.display())).with_hint("create it first"),
        );
    }
    let staged = tempfile::Builder::new()
        .prefix(".crabbox-")
        .tempfile_in(parent)
        .or_error(ErrorKind::Usage, words)?;
    let file = staged.as_file().try_clone().or_error(ErrorKind::Usage, words)?;
    let mut file = tokio::fs::File::from_std(file);
    let bytes = remote.download(there, &mut file).await?;
    file.flush().await.or_error(ErrorKind::Usage, words)?;
    staged.persist(target).or_error(ErrorKind::Usage, words)?;
    Ok(outcome(1, bytes))
}

async fn download_directory(remote: &Arc<dyn Remote>, there: &RemotePath, target: PathBuf) -> Result<CopyOutcome> {
    if target.exists() && !target.is_dir() {
        return Err(Error::usage(format!("not a directory: `{}`", target.display()))
            .with_hint("a directory cannot replace a file; choose another destination"));
    }
    let words = format!("write `{}`", target.display());
    std::fs::create_dir_all(&target).or_error(ErrorKind::Usage, || words)?;
    let (write_end, read_end) = tokio::io::duplex(PIPE_BYTES);
    let unpack = blocking(move || {
        let mut reader = SyncIoBridge::new(read_end);
        // The user asked for this directory of the box: links come as they are and are never followed here.
        let options = ExtractOptions {
            links: LinkPolicy::Any,
            ..ExtractOptions::default()
        };
        let report = extract(&mut reader, &target, &options)?;
        // What follows the archive's end is padding; the sender must not break on it.
        std::io::copy(&mut reader, &mut std::io::sink()).or_error(ErrorKind::Remote, || "receive".to_owned())?;
        Ok(outcome(report.files, report.bytes))
    });
    let request = ExecRequest::script(r#"exec tar -C "$1" -cf - ."#, [there.as_str()]);
    let mut sink = TarSink {
        writer: write_end,
        message: Vec::new(),
    };
    let sent = async {
        let status = remote.exec(request, &mut sink).await;
        let TarSink { mut writer, message } = sink;
        let _ = writer.shutdown().await;
        drop(writer);
        match status? {
            status if status.success() => Ok(()),
            status => Err(Error::remote(format!(
                "tar on the box exited {}: {}",
                status.code,
                String::from_utf8_lossy(&message).trim()
            ))),
        }
    };
    let (sent, unpacked) = tokio::join!(sent, unpack);
    let unpacked = unpacked?;
    sent.map(|()| unpacked)
}

struct TarSink {
    writer: tokio::io::DuplexStream,
    message: Vec<u8>,
}

#[async_trait]
impl OutputSink for TarSink {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        match stream {
            OutputStream::Stdout => self
                .writer
                .write_all(&chunk)
                .await
                .or_error(ErrorKind::Other, || "unpack directory".to_owned()),
            OutputStream::Stderr => {
                let room = 4096_usize.saturating_sub(self.message.len());
                self.message.extend_from_slice(&chunk[..chunk.len().min(room)]);
                Ok(())
            }
        }
    }
}

fn outcome(files: u64, bytes: u64) -> CopyOutcome {
    let mut outcome = CopyOutcome::default();
    (outcome.files, outcome.bytes) = (files, bytes);
    outcome
}

#[cfg(unix)]
fn mode(metadata: &std::fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o777
}

#[cfg(not(unix))]
fn mode(_metadata: &std::fs::Metadata) -> u32 {
    0o644
}
