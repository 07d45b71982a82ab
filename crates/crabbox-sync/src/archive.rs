//! Packs the files of a manifest into one compressed stream.
//!
//! The same tree gives the same bytes: entries in the manifest's order, owner zero and nameless, times in whole seconds.
//! Files are read ahead on a thread of their own and compressed on all cores. A file whose length is not the manifest's,
//! or that changes while it is read, is an error, never a damaged archive.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;

use crate::manifest::{Entry, EntryKind, Manifest, stat_key};
use crate::paths::{full_path, open_file, to_bytes, to_path};
use crate::rules::is_safe_path;
use crate::tree_hash::changed_meanwhile;

/// Most bytes of a file in one piece.
const PIECE: usize = 256 * 1024;
/// Pieces that may wait for compression.
const AHEAD: usize = 64;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ArchiveFormat {
    /// gzip, which every box can unpack.
    #[default]
    TarGz,
    /// Zstandard, faster and smaller.
    TarZst,
}

impl ArchiveFormat {
    /// Usual end of the file name.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::TarGz => "tgz",
            Self::TarZst => "tar.zst",
        }
    }
}

/// How to pack.
#[derive(Clone, Debug)]
pub struct ArchiveOptions {
    /// Compression.
    pub format: ArchiveFormat,
    /// Most files.
    pub max_files: u64,
    /// Most bytes before compression.
    pub max_bytes: u64,
    /// Set to stop soon, with a cancelled error.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self {
            format: ArchiveFormat::default(),
            max_files: u64::MAX,
            max_bytes: u64::MAX,
            cancel: None,
        }
    }
}

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveReport {
    /// Files and links.
    pub files: u64,
    /// Bytes before compression.
    pub bytes: u64,
}

/// Packs a manifest's files and returns the writer, flushed.
///
/// # Errors
/// `Sync` when a limit is exceeded, a file cannot be read or changed since the manifest was built, or writing fails.
pub fn write_archive<W: Write>(
    root: &Path,
    manifest: &Manifest,
    options: &ArchiveOptions,
    writer: W,
) -> Result<(W, ArchiveReport)> {
    if manifest.len() as u64 > options.max_files {
        return Err(Error::sync(format!(
            "archive would have more files than {}: {}",
            options.max_files,
            manifest.len()
        )));
    }
    if manifest.bytes() > options.max_bytes {
        return Err(Error::sync(format!(
            "archive would have more bytes than {}: {}",
            options.max_bytes,
            manifest.bytes()
        )));
    }
    let report = ArchiveReport {
        files: manifest.len() as u64,
        bytes: manifest.bytes(),
    };
    let failed = || "write archive".to_owned();
    let mut writer = match options.format {
        ArchiveFormat::TarGz => {
            let encoder = flate2::GzBuilder::new()
                .mtime(0)
                .write(writer, flate2::Compression::new(4));
            pack(root, manifest, options, encoder)?
                .finish()
                .or_error(ErrorKind::Sync, failed)?
        }
        ArchiveFormat::TarZst => {
            let mut encoder = zstd::stream::write::Encoder::new(writer, 3).or_error(ErrorKind::Sync, failed)?;
            let workers = std::thread::available_parallelism().map_or(1, |count| count.get().min(16));
            // The number of workers does not change the bytes as long as it is not zero.
            encoder
                .multithread(u32::try_from(workers).unwrap_or(1))
                .or_error(ErrorKind::Sync, failed)?;
            encoder.include_checksum(true).or_error(ErrorKind::Sync, failed)?;
            pack(root, manifest, options, encoder)?
                .finish()
                .or_error(ErrorKind::Sync, failed)?
        }
    };
    writer.flush().or_error(ErrorKind::Sync, failed)?;
    Ok((writer, report))
}

/// What the reading thread hands over, in the manifest's order.
enum Piece {
    /// An entry starts: its place, its modification time in nanoseconds.
    Start(usize, i64),
    /// More of a file, or a link's text.
    Content(Vec<u8>),
    Failed(Error),
}

fn pack<W: Write>(root: &Path, manifest: &Manifest, options: &ArchiveOptions, writer: W) -> Result<W> {
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::scope(|scope| {
        scope.spawn(move || read_ahead(root, manifest, options, &sender));
        // By value: when writing fails the receiver goes, and the thread that would wait for it ends.
        write_entries(manifest, receiver, writer)
    })
}

fn read_ahead(root: &Path, manifest: &Manifest, options: &ArchiveOptions, sender: &SyncSender<Piece>) {
    for (place, entry) in manifest.iter().enumerate() {
        let cancelled = options
            .cancel
            .as_ref()
            .is_some_and(|cancel| cancel.load(Ordering::Relaxed));
        let read = if cancelled {
            Err(Error::cancelled("archive was cancelled"))
        } else {
            read_entry(root, place, &entry, sender)
        };
        match read {
            Ok(true) => {}
            // The writer is gone; it has reported why.
            Ok(false) => return,
            Err(error) => {
                let _ = sender.send(Piece::Failed(error));
                return;
            }
        }
    }
}

/// Reads one entry; false when nobody listens any more.
fn read_entry(root: &Path, place: usize, entry: &Entry<'_>, sender: &SyncSender<Piece>) -> Result<bool> {
    if !is_safe_path(entry.path) {
        return Err(Error::sync(format!("unsafe sync path: `{}`", entry.path.as_bstr())));
    }
    let path = full_path(root, entry.path);
    let failed = || format!("read `{}`", entry.path.as_bstr());
    if entry.kind == EntryKind::Symlink {
        let target = path.read_link().or_error(ErrorKind::Sync, failed)?;
        let text = to_bytes(target.as_os_str()).into_owned();
        return Ok(
            sender.send(Piece::Start(place, entry.mtime_ns)).is_ok() && sender.send(Piece::Content(text)).is_ok()
        );
    }
    let mut file: File = open_file(&path).or_error(ErrorKind::Sync, failed)?;
    let before = stat_key(&file.metadata().or_error(ErrorKind::Sync, failed)?);
    if before.size != entry.size {
        return Err(changed_meanwhile(entry.path));
    }
    if sender.send(Piece::Start(place, before.mtime_ns)).is_err() {
        return Ok(false);
    }
    let mut left = entry.size;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; length];
        match file.read_exact(&mut piece) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(changed_meanwhile(entry.path)),
            Err(error) => return Err(error).or_error(ErrorKind::Sync, failed),
        }
        left -= length as u64;
        if sender.send(Piece::Content(piece)).is_err() {
            return Ok(false);
        }
    }
    let after = stat_key(&file.metadata().or_error(ErrorKind::Sync, failed)?);
    if after.size != before.size || after.mtime_ns != before.mtime_ns {
        return Err(changed_meanwhile(entry.path));
    }
    Ok(true)
}

fn write_entries<W: Write>(manifest: &Manifest, receiver: Receiver<Piece>, writer: W) -> Result<W> {
    let failed = || "write archive".to_owned();
    let mut builder = tar::Builder::new(writer);
    for expected in 0..manifest.len() {
        let (place, mtime_ns) = match receiver.recv() {
            Ok(Piece::Start(place, mtime_ns)) => (place, mtime_ns),
            Ok(Piece::Failed(error)) => return Err(error),
            Ok(Piece::Content(_)) | Err(_) => return Err(Error::sync("read-ahead of the archive ended early")),
        };
        debug_assert_eq!(place, expected, "entries come in order");
        let entry = manifest.entry(place);
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0));
        let path = to_path(entry.path);
        if entry.kind == EntryKind::Symlink {
            let text = match receiver.recv() {
                Ok(Piece::Content(text)) => text,
                Ok(Piece::Failed(error)) => return Err(error),
                _ => return Err(Error::sync("read-ahead of the archive ended early")),
            };
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            builder
                .append_link(&mut header, &path, to_path(&text))
                .or_error(ErrorKind::Sync, failed)?;
            continue;
        }
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(entry.size);
        header.set_mode(entry.mode);
        let mut content = Content {
            receiver: &receiver,
            piece: Vec::new(),
            at: 0,
            left: entry.size,
            failure: None,
        };
        let appended = builder.append_data(&mut header, &path, &mut content);
        if let Some(error) = content.failure.take() {
            return Err(error);
        }
        appended.or_error(ErrorKind::Sync, failed)?;
    }
    // A change of the last file is noticed after its last byte.
    if let Ok(Piece::Failed(error)) = receiver.recv() {
        return Err(error);
    }
    builder.into_inner().or_error(ErrorKind::Sync, failed)
}

/// Exactly one file's bytes out of the channel.
struct Content<'a> {
    receiver: &'a Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    left: u64,
    failure: Option<Error>,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        if self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(Piece::Content(piece)) => {
                    self.piece = piece;
                    self.at = 0;
                }
                Ok(Piece::Failed(error)) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("reading failed"));
                }
                Ok(Piece::Start(..)) | Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        self.left -= length as u64;
        Ok(length)
    }
}
