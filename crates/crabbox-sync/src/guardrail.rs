//! Limits on how much may travel, and the words for exceeding them.

use std::collections::HashMap;

use crabbox_core::{Error, Result};

use crate::manifest::Manifest;

/// Longest list of examples in a warning.
const EXAMPLES: usize = 5;

/// From how many files or bytes on to warn or to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Files from which on to warn.
    pub warn_files: u64,
    /// Bytes from which on to warn.
    pub warn_bytes: u64,
    /// Files from which on to fail.
    pub fail_files: u64,
    /// Bytes from which on to fail.
    pub fail_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            warn_files: 50_000,
            warn_bytes: 5 * GIB,
            fail_files: 150_000,
            fail_bytes: 20 * GIB,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every file of the manifest.
    Candidate,
    /// Only what differs from the commit that is checked out.
    DirtyDelta,
}

impl Scope {
    /// The word in messages and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::DirtyDelta => "dirty_delta",
        }
    }

    /// The delta when anything changed, else everything. An upload of the whole archive must use
    /// [`Scope::Candidate`] instead.
    pub fn of(manifest: &Manifest) -> Self {
        if manifest.changed_paths() > 0 {
            Self::DirtyDelta
        } else {
            Self::Candidate
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Below every limit.
    Ok,
    /// At or above a warning limit.
    Warning,
    /// At or above a failure limit.
    Failed,
}

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Number of files.
    Files,
    /// Number of bytes.
    Bytes,
}

/// One limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// Which limit.
    pub status: Status,
    /// What was counted.
    pub metric: Metric,
    /// The count.
    pub actual: u64,
    /// The limit.
    pub limit: u64,
}

/// A manifest held against the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guardrail {
    /// What was measured.
    pub scope: Scope,
    /// Files in scope.
    pub files: u64,
    /// Bytes in scope.
    pub bytes: u64,
    /// The limits.
    pub limits: Limits,
    /// The failure limits are off.
    pub allow_large: bool,
    /// The worst of the reasons.
    pub status: Status,
    /// Limits that were reached, the worst one for each metric.
    pub reasons: Vec<Reason>,
    top_directories: String,
}

impl Guardrail {
    /// Holds a manifest against limits. `allow_large` turns the failure limits off; warnings stay.
    pub fn new(manifest: &Manifest, scope: Scope, limits: Limits, allow_large: bool) -> Self {
        let (files, bytes) = match scope {
            Scope::Candidate => (manifest.len() as u64, manifest.bytes()),
            Scope::DirtyDelta => (manifest.changed_paths() as u64, manifest.changed_bytes()),
        };
        let measures = [
            (Metric::Files, files, limits.warn_files, limits.fail_files),
            (Metric::Bytes, bytes, limits.warn_bytes, limits.fail_bytes),
        ];
        let mut reasons = Vec::new();
        for (metric, actual, warn, fail) in measures {
            if actual >= fail && !allow_large {
                reasons.push(Reason {
                    status: Status::Failed,
                    metric,
                    actual,
                    limit: fail,
                });
            } else if actual >= warn {
                reasons.push(Reason {
                    status: Status::Warning,
                    metric,
                    actual,
                    limit: warn,
                });
            }
        }
        let status = reasons.iter().map(|reason| reason.status).max().unwrap_or(Status::Ok);
        let top_directories = if status == Status::Ok {
            String::new()
        } else {
            top_directories(manifest, scope)
        };
        Self {
            scope,
            files,
            bytes,
            limits,
            allow_large,
            status,
            reasons,
            top_directories,
        }
    }

    /// Lines for the user about limits that were reached; none when all is well.
    pub fn lines(&self) -> Vec<String> {
        if self.status == Status::Ok {
            return Vec::new();
        }
        let warnings = self.reasons.iter().filter(|reason| reason.status == Status::Warning);
        let mut lines: Vec<String> = warnings
            .map(|reason| format!("warning: large sync {}: {}", self.scope.as_str(), reason.text()))
            .collect();
        lines.push(format!("sync top dirs: {}", self.top_directories));
        lines.push("hint: exclude what the box does not need with .crabboxignore or sync.exclude; `crabbox sync-plan` lists the largest files".to_owned());
        lines
    }

    /// Refuses a sync that is too large.
    ///
    /// # Errors
    /// `Sync` when a failure limit was reached.
    pub fn check(&self) -> Result<()> {
        let failures: Vec<String> = self
            .reasons
            .iter()
            .filter(|reason| reason.status == Status::Failed)
            .map(Reason::text)
            .collect();
        if failures.is_empty() {
            return Ok(());
        }
        Err(Error::sync(format!(
            "sync {} too large: {}; use --force-sync-large or CRABBOX_SYNC_ALLOW_LARGE=1",
            self.scope.as_str(),
            failures.join(", ")
        ))
        .with_hint(format!(
            "exclude what the box does not need; largest directories: {}",
            self.top_directories
        )))
    }
}

impl Reason {
    fn text(&self) -> String {
        match self.metric {
            Metric::Files => format!("{} files >= limit {}", self.actual, self.limit),
            Metric::Bytes => format!("{} >= limit {}", human_bytes(self.actual), human_bytes(self.limit)),
        }
    }
}

/// `sync candidate: N files, H`, with the delta when anything changed.
pub fn candidate_line(manifest: &Manifest) -> String {
    let mut line = format!(
        "sync candidate: {} files, {}",
        manifest.len(),
        human_bytes(manifest.bytes())
    );
    if manifest.changed_paths() > 0 {
        let bytes = human_bytes(manifest.changed_bytes());
        line.push_str(&format!(" dirty_delta={} files, {bytes}", manifest.changed_paths()));
    }
    line
}

/// The warning about tracked files that built-in excludes would have left out.
pub fn protected_line(manifest: &Manifest) -> Option<String> {
    let protected = manifest.protected_tracked();
    if protected.is_empty() {
        return None;
    }
    let examples: Vec<String> = protected
        .iter()
        .take(EXAMPLES)
        .map(|one| format!("{} ({})", one.path.escape_debug(), one.pattern))
        .collect();
    let more = match protected.len().saturating_sub(EXAMPLES) {
        0 => String::new(),
        more => format!(", … (+{more} more)"),
    };
    Some(format!(
        "warning: protected {} tracked files from built-in artifact excludes: {}{more}",
        protected.len(),
        examples.join(", ")
    ))
}

/// Bytes below 1024, else one decimal in the largest binary unit.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut divisor = 1024_u64;
    while bytes / divisor >= 1024 && unit + 1 < UNITS.len() {
        divisor *= 1024;
        unit += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let value = bytes as f64 / divisor as f64;
    format!("{value:.1} {}", UNITS[unit])
}

/// First path parts by number of files, at most five: `src:120,docs:7`. Files of the root count as `.`.
fn top_directories(manifest: &Manifest, scope: Scope) -> String {
    let mut counts: HashMap<&[u8], u64> = HashMap::new();
    let mut count = |path| *counts.entry(first_part(path)).or_default() += 1;
    match scope {
        Scope::Candidate => manifest.iter().for_each(|entry| count(entry.path)),
        Scope::DirtyDelta => manifest.changed().for_each(|(path, _)| count(path)),
    }
    let mut counts: Vec<(&[u8], u64)> = counts.into_iter().collect();
    counts.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
    let rows: Vec<String> = counts
        .iter()
        .take(EXAMPLES)
        .map(|(name, count)| format!("{}:{count}", String::from_utf8_lossy(name).escape_debug()))
        .collect();
    rows.join(",")
}

fn first_part(path: &[u8]) -> &[u8] {
    path.iter()
        .position(|byte| *byte == b'/')
        .map_or(b".", |slash| &path[..slash])
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test need no atomic writes")]
mod tests {
    use super::*;
    use crate::rules::Rules;
    use crate::source::{Source, SourceOptions};
    use crate::stat_cache::StatCache;

    fn manifest(files: &[(&str, usize)]) -> (tempfile::TempDir, Manifest) {
        let tree = tempfile::tempdir().unwrap();
        for (path, size) in files {
            let path = tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![b'x'; *size]).unwrap();
        }
        let options = SourceOptions {
            directory: true,
            ..SourceOptions::default()
        };
        let source = Source::discover(tree.path(), &options).unwrap();
        let manifest = Manifest::build(&source, &Rules::new([""; 0], [""; 0]), &StatCache::in_memory()).unwrap();
        (tree, manifest)
    }

    const LIMITS: Limits = Limits {
        warn_files: 3,
        warn_bytes: 1000,
        fail_files: 4,
        fail_bytes: 2000,
    };

    #[test]
    fn limits_are_reached_at_equality() {
        let (_tree, three) = manifest(&[("a/1", 1), ("a/2", 1), ("b", 1)]);
        let guardrail = Guardrail::new(&three, Scope::Candidate, LIMITS, false);
        assert_eq!(guardrail.status, Status::Warning);
        guardrail.check().unwrap();
        assert_eq!(
            guardrail.lines()[0],
            "warning: large sync candidate: 3 files >= limit 3"
        );
        assert_eq!(guardrail.lines()[1], "sync top dirs: a:2,.:1");

        let (_tree, four) = manifest(&[("a/1", 2000), ("a/2", 1), ("b", 1), ("c", 1)]);
        let guardrail = Guardrail::new(&four, Scope::Candidate, LIMITS, false);
        assert_eq!(guardrail.status, Status::Failed);
        assert_eq!(
            guardrail.check().unwrap_err().message(),
            "sync candidate too large: 4 files >= limit 4, 2.0 KiB >= limit 2.0 KiB; \
             use --force-sync-large or CRABBOX_SYNC_ALLOW_LARGE=1"
        );
        let allowed = Guardrail::new(&four, Scope::of(&four), LIMITS, true);
        allowed.check().unwrap();
        assert_eq!(allowed.scope, Scope::DirtyDelta);
        assert_eq!(allowed.status, Status::Warning);

        let (_tree, two) = manifest(&[("a", 1), ("b", 1)]);
        assert!(Guardrail::new(&two, Scope::Candidate, LIMITS, false).lines().is_empty());
    }

    #[test]
    fn sizes_are_binary_with_one_decimal() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
