//! What a sync would send, for people and for programs.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::guardrail::{Guardrail, Limits, Reason, Scope, Status, candidate_line, human_bytes, protected_line};
use crate::manifest::{Manifest, ProtectedTracked};

const EXAMPLES: usize = 5;

/// The document of `sync-plan --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Everything that travels.
    pub candidate: Amount,
    /// The part that differs from the commit that is checked out.
    pub dirty_delta: Amount,
    /// Number of tracked paths that are gone.
    pub deleted_tracked_paths: usize,
    /// Tracked files that travel in spite of a built-in exclude.
    pub protected_tracked_files: ProtectedFiles,
    /// The limits and what they say.
    pub guardrail: GuardrailReport,
    /// The largest files, largest first.
    pub top_files: Vec<SizedPath>,
    /// The largest directories, down to two levels, largest first; `.` holds the files of the root.
    pub top_dirs: Vec<SizedPath>,
    #[serde(skip)]
    text: String,
}

/// A number of files and their size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    /// Number of files.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// The sum for people.
    pub human_bytes: String,
}

/// A path and its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SizedPath {
    /// Path from the root; bytes that are not text are replaced.
    pub path: String,
    /// Size, or sum of sizes.
    pub bytes: u64,
    /// The size for people.
    pub human_bytes: String,
}

/// Protected tracked files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProtectedFiles {
    /// How many there are.
    pub count: usize,
    /// The first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<ProtectedTracked>,
}

/// A guardrail's findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardrailReport {
    /// What was measured.
    pub scope: Scope,
    /// Files in scope.
    pub files: u64,
    /// Bytes in scope.
    pub bytes: u64,
    /// The bytes for people.
    pub human_bytes: String,
    /// The limits.
    pub limits: Limits,
    /// The failure limits are off.
    pub allow_large: bool,
    /// The worst of the reasons.
    pub status: Status,
    /// Limits that were reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
}

impl Plan {
    /// Describes a manifest with at most `limit` rows in each list.
    pub fn new(manifest: &Manifest, guardrail: &Guardrail, limit: usize) -> Self {
        let protected = manifest.protected_tracked();
        let mut plan = Self {
            candidate: Amount::new(manifest.len() as u64, manifest.bytes()),
            dirty_delta: Amount::new(manifest.changed_paths() as u64, manifest.changed_bytes()),
            deleted_tracked_paths: manifest.deleted().len(),
            protected_tracked_files: ProtectedFiles {
                count: protected.len(),
                examples: protected.iter().take(EXAMPLES).cloned().collect(),
            },
            guardrail: GuardrailReport {
                scope: guardrail.scope,
                files: guardrail.files,
                bytes: guardrail.bytes,
                human_bytes: human_bytes(guardrail.bytes),
                limits: guardrail.limits,
                allow_large: guardrail.allow_large,
                status: guardrail.status,
                reasons: guardrail.reasons.clone(),
            },
            top_files: largest(manifest.iter().map(|entry| (entry.path, entry.size)).collect(), limit),
            top_dirs: largest(directories(manifest), limit),
            text: String::new(),
        };
        plan.text = plan.render(manifest);
        plan
    }

    /// The plan for people, lines ending with a newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn render(&self, manifest: &Manifest) -> String {
        let mut text = format!("{}\n", candidate_line(manifest));
        if let Some(line) = protected_line(manifest) {
            text.push_str(&line);
            text.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "deleted tracked paths: {}", self.deleted_tracked_paths);
        for (title, rows) in [("top files:", &self.top_files), ("top dirs:", &self.top_dirs)] {
            let _ = writeln!(text, "{title}");
            for row in rows {
                let _ = writeln!(text, "  {:<10} {}", row.human_bytes, row.path.escape_debug());
            }
        }
        text
    }
}

impl Amount {
    fn new(files: u64, bytes: u64) -> Self {
        Self {
            files,
            bytes,
            human_bytes: human_bytes(bytes),
        }
    }
}

/// The largest first, equal ones by path.
fn largest(mut sizes: Vec<(&[u8], u64)>, limit: usize) -> Vec<SizedPath> {
    let order = |left: &(&[u8], u64), right: &(&[u8], u64)| right.1.cmp(&left.1).then(left.0.cmp(right.0));
    if limit < sizes.len() {
        sizes.select_nth_unstable_by(limit, order);
        sizes.truncate(limit);
    }
    sizes.sort_unstable_by(order);
    let row = |(path, bytes): (&[u8], u64)| SizedPath {
        path: String::from_utf8_lossy(path).into_owned(),
        bytes,
        human_bytes: human_bytes(bytes),
    };
    sizes.into_iter().map(row).collect()
}

/// Sizes of directories of the first two levels.
fn directories(manifest: &Manifest) -> Vec<(&[u8], u64)> {
    let mut sizes: HashMap<&[u8], u64> = HashMap::new();
    for entry in manifest.iter() {
        let mut slashes = entry
            .path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(place, _)| place);
        let directory = match (slashes.next(), slashes.next()) {
            (None, _) => b".",
            (Some(first), None) => &entry.path[..first],
            (Some(_), Some(second)) => &entry.path[..second],
        };
        *sizes.entry(directory).or_default() += entry.size;
    }
    sizes.into_iter().collect()
}
