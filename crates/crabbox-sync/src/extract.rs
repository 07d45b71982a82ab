//! Unpacks an archive that nobody vouches for.
//!
//! Everything is created below the destination without following links, whether they come from the archive or were there
//! before. Absolute paths, `..`, devices, pipes and set-id bits are refused or dropped, and limits bound what is written.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};
use gix::bstr::ByteSlice as _;
use rustix::fs::{AtFlags, FileType, Mode};
use tar::EntryType;

use crate::beneath::{self, Beneath, Missing};
use crate::rules::is_safe_path;

/// Longest extended header that is read.
const MAX_EXTENDED: u64 = 1 << 20;

/// Which symbolic links an archive may bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkPolicy {
    /// None.
    Refuse,
    /// Those that stay inside the destination, whatever other links the archive brings: relative, and with `..` only at
    /// the start and no more often than the link lies deep.
    #[default]
    Inside,
    /// All. They are created and never followed here; whoever reads the destination must not trust them.
    Any,
}

/// Bounds of an extraction.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    /// Most entries.
    pub max_entries: u64,
    /// Most bytes of file content.
    pub max_bytes: u64,
    /// Longest path in bytes.
    pub max_path_length: usize,
    /// Which symbolic links may come.
    pub links: LinkPolicy,
    /// Whether files keep their modification times.
    pub keep_times: bool,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            max_entries: 1_000_000,
            max_bytes: 64 << 30,
            max_path_length: 4096,
            links: LinkPolicy::default(),
            keep_times: true,
        }
    }
}

/// What an extraction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtractReport {
    /// Regular files, hard links included.
    pub files: u64,
    /// Directories named by the archive.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// Unpacks a tar archive, plain or compressed with gzip or Zstandard, into an existing directory.
///
/// A file or link that an entry names is replaced. A link or file in place of an entry's directory is an error.
///
/// # Errors
/// `Sync` for an archive that is damaged, exceeds a limit or asks for what is refused; `Other` when writing fails. What
/// was unpacked before stays.
pub fn extract(archive: impl Read, destination: &Path, options: &ExtractOptions) -> Result<ExtractReport> {
    let root = Beneath::open(destination)
        .or_error(ErrorKind::Other, || format!("open directory {}", destination.display()))?;
    let mut archive = BufReader::with_capacity(128 * 1024, archive);
    let mut magic = Vec::new();
    (&mut archive).take(4).read_to_end(&mut magic).map_err(damaged)?;
    let stream = io::Cursor::new(magic.clone()).chain(archive);
    let mut extraction = Extraction {
        root,
        options,
        report: ExtractReport::default(),
        entries: 0,
        directories: Vec::new(),
    };
    // Headers and padding count too, so that an archive of nothing but names ends somewhere.
    let most = options
        .max_bytes
        .saturating_add(options.max_entries.saturating_mul(8 * 1024));
    if magic.starts_with(&[0x1f, 0x8b]) {
        extraction.run(flate2::read::MultiGzDecoder::new(stream).take(most))?;
    } else if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        extraction.run(zstd::stream::read::Decoder::new(stream).map_err(damaged)?.take(most))?;
    } else {
        extraction.run(stream.take(most))?;
    }
    Ok(extraction.report)
}

fn damaged(error: io::Error) -> Error {
    Error::sync("archive is damaged").with_source(error)
}

fn refused(why: &str, path: &[u8]) -> Error {
    Error::sync(format!("archive refused: {why}: `{}`", path.as_bstr()))
}

/// What extended headers say of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime_ns: Option<i64>,
}

struct Extraction<'a> {
    root: Beneath,
    options: &'a ExtractOptions,
    report: ExtractReport,
    entries: u64,
    /// Modes of directories, set last so that a read-only one can be filled.
    directories: Vec<(Vec<u8>, u32)>,
}

impl Extraction<'_> {
    fn run(&mut self, stream: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(stream);
        let mut extended = Extended::default();
        for entry in archive.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            self.entries += 1;
            if self.entries > self.options.max_entries {
                return Err(Error::sync(format!(
                    "archive has more entries than {}",
                    self.options.max_entries
                )));
            }
            match entry.header().entry_type() {
                EntryType::GNULongName => extended.path = Some(read_name(&mut entry)?),
                EntryType::GNULongLink => extended.link = Some(read_name(&mut entry)?),
                EntryType::XHeader => read_pax(&mut entry, &mut extended)?,
                EntryType::XGlobalHeader => {}
                kind => {
                    self.entry(kind, &mut entry, &std::mem::take(&mut extended))?;
                }
            }
        }
        for (path, mode) in std::mem::take(&mut self.directories).into_iter().rev() {
            let directory = self
                .root
                .enter(&path, Missing::Fail)
                .map_err(|error| write_failed(&path, error))?;
            // The owner keeps access, so that what was unpacked can be removed again.
            rustix::fs::fchmod(directory, Mode::from_raw_mode((mode & 0o777 | 0o700) as _))
                .map_err(|error| write_failed(&path, error.into()))?;
        }
        Ok(())
    }

    fn entry(&mut self, kind: EntryType, entry: &mut tar::Entry<'_, impl Read>, extended: &Extended) -> Result<()> {
        let named = extended
            .path
            .clone()
            .unwrap_or_else(|| entry.header().path_bytes().into_owned());
        if named.len() > self.options.max_path_length {
            return Err(refused("path is too long", &named[..80.min(named.len())]));
        }
        let Some(path) = clean(&named) else {
            return Err(refused("unsafe path", &named));
        };
        let size = entry.header().entry_size().map_err(damaged)?;
        if extended.size.is_some_and(|declared| declared != size) {
            return Err(refused("two different sizes", &named));
        }
        let mode = entry.header().mode().map_err(damaged)?;
        let is_directory = kind.is_dir() || (kind.is_file() && named.ends_with(b"/"));
        if path.is_empty() {
            // `./` is the destination itself, which stays as it is.
            return if is_directory {
                Ok(())
            } else {
                Err(refused("unsafe path", &named))
            };
        }
        let mtime_ns = extended.mtime_ns.or_else(|| {
            entry
                .header()
                .mtime()
                .ok()
                .and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1_000_000_000))
        });
        if is_directory {
            self.root
                .enter(path, Missing::Create)
                .map_err(|error| in_the_way(path, error))?;
            self.directories.push((path.to_vec(), mode));
            self.report.directories += 1;
            return Ok(());
        }
        let link = || {
            extended
                .link
                .clone()
                .or_else(|| entry.header().link_name_bytes().map(|name| name.into_owned()))
        };
        match kind {
            EntryType::Regular | EntryType::Continuous => self.file(path, entry, size, mode, mtime_ns),
            EntryType::Symlink => {
                let target = link().ok_or_else(|| refused("link without target", path))?;
                self.symlink(path, &target)
            }
            EntryType::Link => {
                let target = link().ok_or_else(|| refused("link without target", path))?;
                self.hard_link(path, &target)
            }
            _ => Err(refused("device, pipe or unknown kind of file", path)),
        }
    }

    fn file(
        &mut self,
        path: &[u8],
        content: &mut impl Read,
        size: u64,
        mode: u32,
        mtime_ns: Option<i64>,
    ) -> Result<()> {
        let bytes = self.report.bytes.saturating_add(size);
        if bytes > self.options.max_bytes {
            return Err(Error::sync(format!(
                "archive has more bytes than {}",
                self.options.max_bytes
            )));
        }
        let keep_times = self.options.keep_times;
        let (directory, name) = self.make_room(path)?;
        let failed = |error| write_failed(path, error);
        let mut file = beneath::create_file(directory, name).map_err(failed)?;
        copy_exactly(content, &mut file, size, path)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode((mode & 0o777) as _)).map_err(|error| failed(error.into()))?;
        if let Some(mtime_ns) = mtime_ns.filter(|_| keep_times) {
            rustix::fs::futimens(&file, &beneath::timestamps(mtime_ns)).map_err(|error| failed(error.into()))?;
        }
        self.report.files += 1;
        self.report.bytes = bytes;
        Ok(())
    }

    fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let allowed = match self.options.links {
            LinkPolicy::Refuse => false,
            LinkPolicy::Inside => stays_inside(path, target),
            LinkPolicy::Any => true,
        };
        if !allowed || target.is_empty() || target.contains(&0) {
            return Err(refused("symbolic link leads outside", path));
        }
        let (directory, name) = self.make_room(path)?;
        rustix::fs::symlinkat(target, directory, name).map_err(|error| write_failed(path, error.into()))?;
        self.report.links += 1;
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let Some(target) = clean(target).filter(|target| !target.is_empty() && *target != path) else {
            return Err(refused("hard link leads outside", path));
        };
        let outside = |error: io::Error| refused("hard link leads outside", path).with_source(error);
        let (directory, name) = self.root.enter_parent(target, Missing::Fail).map_err(outside)?;
        // The file is held open so that the link is to what was looked at.
        let existing = beneath::look(directory, name).map_err(outside)?;
        if existing.is_none_or(|stat| beneath::kind_of(&stat) != FileType::RegularFile) {
            return Err(refused("hard link to something else than a file", path));
        }
        let directory = directory.try_clone_to_owned().map_err(outside)?;
        let (new_directory, new_name) = self.make_room(path)?;
        rustix::fs::linkat(&directory, name, new_directory, new_name, AtFlags::empty())
            .map_err(|error| write_failed(path, error.into()))?;
        self.report.files += 1;
        Ok(())
    }

    /// Opens the directory of a path and removes a file or link that is in the path's place.
    fn make_room<'a>(&mut self, path: &'a [u8]) -> Result<(BorrowedFd<'_>, &'a [u8])> {
        let (directory, name) = self
            .root
            .enter_parent(path, Missing::Create)
            .map_err(|error| in_the_way(path, error))?;
        if let Some(stat) = beneath::look(directory, name).map_err(|error| write_failed(path, error))? {
            if beneath::kind_of(&stat) == FileType::Directory {
                return Err(refused("a directory is in the way", path));
            }
            rustix::fs::unlinkat(directory, name, AtFlags::empty())
                .map_err(|error| write_failed(path, error.into()))?;
        }
        Ok((directory, name))
    }
}

fn write_failed(path: &[u8], error: io::Error) -> Error {
    Error::other(format!("unpack `{}`", path.as_bstr())).with_source(error)
}

fn in_the_way(path: &[u8], error: io::Error) -> Error {
    Error::sync(format!(
        "archive refused: a link or file is in the way of a directory: `{}`",
        path.as_bstr()
    ))
    .with_source(error)
}

fn copy_exactly(content: &mut impl Read, file: &mut File, size: u64, path: &[u8]) -> Result<()> {
    let copied = io::copy(&mut content.take(size), file).map_err(|error| write_failed(path, error))?;
    if copied == size {
        return Ok(());
    }
    Err(Error::sync(format!(
        "archive is damaged: it ends inside `{}`",
        path.as_bstr()
    )))
}

/// Strips `./` at the start and slashes at the end. Nothing when the rest is not a safe relative path.
fn clean(path: &[u8]) -> Option<&[u8]> {
    let mut rest = path;
    while let Some(shorter) = rest.strip_prefix(b"./") {
        rest = shorter.trim_start_with(|character| character == '/');
    }
    let rest = rest.trim_end_with(|character| character == '/');
    if rest == b"." || (rest.is_empty() && path.starts_with(b".")) {
        return Some(b"");
    }
    is_safe_path(rest).then_some(rest)
}

/// Directories of the link's own path are real ones, so leading `..` parts climb what is known. A `..` after a name
/// could climb from wherever that name leads, so it is refused.
fn stays_inside(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    let mut climbed = 0;
    let mut named = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named => return false,
            b".." => climbed += 1,
            _ => named = true,
        }
    }
    climbed <= depth
}

fn read_name(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let mut name = read_extended(entry)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn read_extended(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let size = entry.header().entry_size().map_err(damaged)?;
    if size > MAX_EXTENDED {
        return Err(Error::sync(format!(
            "archive refused: extended header is longer than {MAX_EXTENDED} bytes"
        )));
    }
    let mut content = Vec::new();
    entry.take(size).read_to_end(&mut content).map_err(damaged)?;
    Ok(content)
}

fn read_pax(entry: &mut tar::Entry<'_, impl Read>, extended: &mut Extended) -> Result<()> {
    let content = read_extended(entry)?;
    for record in tar::PaxExtensions::new(&content) {
        let record = record.map_err(damaged)?;
        let value = record.value_bytes();
        match record.key_bytes() {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let size = record.value().ok().and_then(|text| text.parse().ok());
                extended.size = Some(size.ok_or_else(|| Error::sync("archive is damaged: size is not a number"))?);
            }
            b"mtime" => extended.mtime_ns = record.value().ok().and_then(parse_time),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(Error::sync("archive refused: sparse files are not supported"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Seconds with an optional fraction.
fn parse_time(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    let nanoseconds = if text.starts_with('-') {
        -nanoseconds
    } else {
        nanoseconds
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_could_leave_are_recognised() {
        for (path, target) in [
            ("a", "b"),
            ("d/a", "../b"),
            ("d/e/a", "../../b/c"),
            ("a", "./b"),
            ("a", "."),
        ] {
            assert!(stays_inside(path.as_bytes(), target.as_bytes()), "{path} {target}");
        }
        for (path, target) in [
            ("a", "/etc"),
            ("a", ".."),
            ("d/a", "../../b"),
            ("a", "b/.."),
            ("d/a", "x/../../y"),
        ] {
            assert!(!stays_inside(path.as_bytes(), target.as_bytes()), "{path} {target}");
        }
    }

    #[test]
    fn paths_are_cleaned_only_at_their_ends() {
        assert_eq!(clean(b"./a/b/"), Some(&b"a/b"[..]));
        assert_eq!(clean(b"./"), Some(&b""[..]));
        assert_eq!(clean(b"."), Some(&b""[..]));
        for bad in [
            &b"/a"[..],
            b"a/../b",
            b"..",
            b"",
            b"a//b",
            b"./../a",
            b"a/./b",
            b"/",
            b"a\0b",
        ] {
            assert_eq!(clean(bad), None, "{}", bad.as_bstr());
        }
    }

    #[test]
    fn pax_times_have_fractions() {
        assert_eq!(parse_time("12.5"), Some(12_500_000_000));
        assert_eq!(parse_time("12"), Some(12_000_000_000));
        assert_eq!(parse_time("x"), None);
    }
}
