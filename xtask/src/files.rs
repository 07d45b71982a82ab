//! Files of the checkout: listing, marked regions, and writing only what changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ignore::WalkBuilder;

/// Every file of the checkout that version control would keep, sorted, relative to `root`.
///
/// # Errors
/// When a directory cannot be read.
pub fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    for entry in walk {
        let entry = entry?;
        if entry.file_type().is_some_and(|kind| kind.is_file()) {
            files.push(entry.path().strip_prefix(root)?.to_path_buf());
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a text file.
///
/// # Errors
/// When the file is missing or is not UTF-8; the message names the path.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a text file, creating its directory.
///
/// # Errors
/// When the directory or the file cannot be written; the message names the path.
#[expect(
    clippy::disallowed_methods,
    reason = "a generated file is under version control, so it needs no durable write"
)]
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Collects generated files, so that writing and checking share one path.
#[derive(Debug)]
pub struct Generated {
    check: bool,
    stale: Vec<PathBuf>,
}

impl Generated {
    /// Starts collecting; with `check` nothing is written.
    pub fn new(check: bool) -> Self {
        Self {
            check,
            stale: Vec::new(),
        }
    }

    /// Brings one file to the given text, or notes that it differs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn file(&mut self, path: &Path, text: &str) -> Result<()> {
        if fs::read_to_string(path).is_ok_and(|found| found == text) {
            return Ok(());
        }
        if self.check {
            self.stale.push(path.to_path_buf());
            return Ok(());
        }
        write(path, text)
    }

    /// Brings one marked region of a file to the given text, or notes that it differs.
    ///
    /// # Errors
    /// When the file or its markers are missing, or the file cannot be written.
    pub fn region(&mut self, path: &Path, region: &Region<'_>, body: &str) -> Result<()> {
        let found = read(path)?;
        let wanted = region
            .replace(&found, body)
            .with_context(|| format!("in {}", path.display()))?;
        self.file(path, &wanted)
    }

    /// Ends the collection.
    ///
    /// # Errors
    /// When checking found a file that differs.
    pub fn finish(self, root: &Path, cure: &str) -> Result<()> {
        if self.stale.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self
            .stale
            .iter()
            .map(|path| path.strip_prefix(root).unwrap_or(path).display().to_string())
            .collect();
        bail!("out of date: {}; run `{cure}`", names.join(", "))
    }
}

/// A region of a file between two marker lines, which stay.
///
/// The opening line is `<prefix> <generated: NAME>`, the closing one `<prefix> </generated>`, with whatever the comment
/// syntax of the file needs around them. Text inside is indented like the opening marker.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// Name in the opening marker.
    pub name: &'a str,
}

impl Region<'_> {
    /// Replaces what stands between the markers.
    ///
    /// # Errors
    /// When a marker is missing.
    pub fn replace(&self, text: &str, body: &str) -> Result<String> {
        let (start, end, indent) = self.find(text)?;
        let mut replaced = String::with_capacity(text.len() + body.len());
        replaced.push_str(&text[..start]);
        for line in body.lines() {
            if !line.is_empty() {
                replaced.push_str(indent);
                replaced.push_str(line);
            }
            replaced.push('\n');
        }
        replaced.push_str(&text[end..]);
        Ok(replaced)
    }

    /// Byte offsets of the first line after the opening marker and of the closing marker's line, and the indentation.
    fn find<'t>(&self, text: &'t str) -> Result<(usize, usize, &'t str)> {
        let opening = format!("<generated: {}>", self.name);
        let mut offset = 0;
        let mut start = None;
        for line in text.split_inclusive('\n') {
            match start {
                None if line.contains(&opening) => {
                    let indent = &line[..line.len() - line.trim_start().len()];
                    start = Some((offset + line.len(), indent));
                }
                Some((start, indent)) if line.contains("</generated>") => return Ok((start, offset, indent)),
                _ => {}
            }
            offset += line.len();
        }
        if start.is_some() {
            bail!("no line with `</generated>` after `{opening}`")
        } else {
            bail!("no line with `{opening}`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Region;

    const TEXT: &str = "a\n  # <generated: one>\n  old\n  # </generated>\nb\n";

    #[test]
    fn a_region_is_replaced_with_the_markers_indentation() {
        let replaced = Region { name: "one" }.replace(TEXT, "new\n\nlines").unwrap();
        assert_eq!(
            replaced,
            "a\n  # <generated: one>\n  new\n\n  lines\n  # </generated>\nb\n"
        );
    }

    #[test]
    fn a_missing_marker_is_named() {
        let error = Region { name: "two" }.replace(TEXT, "").unwrap_err();
        assert_eq!(error.to_string(), "no line with `<generated: two>`");
        let error = Region { name: "one" }.replace("# <generated: one>\n", "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no line with `</generated>` after `<generated: one>`"
        );
    }
}
