//! The output of one run, of which the last 8 MiB are kept.
//!
//! Output goes to `log`. When that holds 8 MiB it becomes `log.1`, so the disk never holds more than twice as much and
//! the last 8 MiB are always there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Step};

/// Bytes of a log that are kept.
pub const LOG_LIMIT: u64 = 8 << 20;

const CURRENT: &str = "log";
const PREVIOUS: &str = "log.1";

/// Attempts to read a log that is rotated under our eyes.
const ATTEMPTS: usize = 3;

#[derive(Debug)]
pub(super) struct LogWriter {
    disk: Disk,
    current: PathBuf,
    previous: PathBuf,
    file: File,
    size: u64,
    total: u64,
}

impl LogWriter {
    pub(super) fn create(disk: Disk, directory: &Path) -> io::Result<Self> {
        let current = directory.join(CURRENT);
        let file = private_append(&current)?;
        Ok(Self {
            disk,
            previous: directory.join(PREVIOUS),
            current,
            file,
            size: 0,
            total: 0,
        })
    }

    /// Adds output. After an error the log ends with what was written before.
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.size == LOG_LIMIT {
                self.disk.before(Step::Rename, &self.previous)?;
                fs::rename(&self.current, &self.previous)?;
                self.file = private_append(&self.current)?;
                self.size = 0;
            }
            let room = usize::try_from(LOG_LIMIT - self.size).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.disk.before(Step::Append, &self.current)?;
            self.file.write_all(now)?;
            self.size += now.len() as u64;
            self.total += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        if !self.disk.is_synced() {
            return Ok(());
        }
        self.disk.before(Step::Sync, &self.current)?;
        self.file.sync_data()
    }

    /// Bytes that are kept, and whether some were dropped.
    pub(super) fn kept(&self) -> (u64, bool) {
        (self.total.min(LOG_LIMIT), self.total > LOG_LIMIT)
    }
}

pub(super) fn private_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Bytes that are kept of a log nobody may have finished, and whether some were dropped.
pub(super) fn kept(directory: &Path) -> (u64, bool) {
    let size = |name| {
        fs::metadata(directory.join(name))
            .map(|metadata| metadata.len())
            .unwrap_or_default()
    };
    let total = size(CURRENT) + size(PREVIOUS);
    (total.min(LOG_LIMIT), total > LOG_LIMIT)
}

/// Reads the last bytes of a log, at most [`LOG_LIMIT`], beginning with a whole character, and whether more was there.
pub(super) fn read_tail(directory: &Path) -> io::Result<(Vec<u8>, bool)> {
    let mut result = (Vec::new(), false);
    for _ in 0..ATTEMPTS {
        let current = open(&directory.join(CURRENT))?;
        let previous = open(&directory.join(PREVIOUS))?;
        let size = |file: &Option<File>| {
            file.as_ref()
                .map_or(Ok(0), |file| file.metadata().map(|data| data.len()))
        };
        let (current_size, previous_size) = (size(&current)?, size(&previous)?);
        let mut skip = (current_size + previous_size).saturating_sub(LOG_LIMIT);
        let truncated = skip > 0;
        let mut content = Vec::with_capacity(usize::try_from(current_size + previous_size - skip).unwrap_or_default());
        for (file, size) in [
            (previous, previous_size),
            (current.as_ref().and_then(|file| file.try_clone().ok()), current_size),
        ] {
            let Some(mut file) = file else { continue };
            let start = skip.min(size);
            skip -= start;
            file.seek(SeekFrom::Start(start))?;
            file.take(size - start).read_to_end(&mut content)?;
        }
        if truncated {
            let partial = content.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
            content.drain(..partial);
        }
        result = (content, truncated);
        if current.is_none_or(|file| is_named(&file, &directory.join(CURRENT))) {
            break;
        }
    }
    Ok(result)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Whether a file is still the one under its name, that is, the log was not rotated meanwhile.
#[cfg(unix)]
fn is_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let number = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(|held| number(&held)) == fs::metadata(path).ok().map(|named| number(&named))
}

#[cfg(not(unix))]
fn is_named(_: &File, _: &Path) -> bool {
    true
}

/// The last lines of a text; all of it when there are not more.
pub(super) fn last_lines(content: &[u8], lines: usize) -> &[u8] {
    let body = content.strip_suffix(b"\n").unwrap_or(content);
    let mut breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1).map(|skip| breaks.nth(skip)) {
        None => &[],
        Some(None) => content,
        Some(Some((index, _))) => &content[index + 1..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_survives_rotation_and_the_disk_stays_bounded() {
        let root = tempfile::tempdir().unwrap();
        let mut log = LogWriter::create(Disk::new(), root.path()).unwrap();
        let mut expected = Vec::new();
        // Chunks that fit no boundary, with characters of three bytes, for more than three times the limit.
        for round in 0..30_u32 {
            let chunk = format!("{round:07}€").repeat(100_000);
            log.append(chunk.as_bytes()).unwrap();
            expected.extend_from_slice(chunk.as_bytes());
            let on_disk: u64 = fs::read_dir(root.path())
                .unwrap()
                .map(|entry| entry.unwrap().metadata().unwrap().len())
                .sum();
            assert!(on_disk <= 2 * LOG_LIMIT);
            let (tail, truncated) = read_tail(root.path()).unwrap();
            assert_eq!(truncated, expected.len() as u64 > LOG_LIMIT);
            assert!(expected.ends_with(&tail));
            assert!(tail.len() as u64 + 3 > LOG_LIMIT.min(expected.len() as u64));
            assert!(std::str::from_utf8(&tail).is_ok());
        }
        assert_eq!(log.kept(), (LOG_LIMIT, true));
        assert_eq!(kept(root.path()), (LOG_LIMIT, true));
    }

    #[test]
    fn last_lines_of_texts() {
        for (text, lines, tail) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb", 5, "a\nb"),
            ("a\nb", 0, ""),
            ("", 3, ""),
            ("\n\n\n", 1, "\n"),
        ] {
            assert_eq!(last_lines(text.as_bytes(), lines), tail.as_bytes(), "{text:?} {lines}");
        }
    }
}
