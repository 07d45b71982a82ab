//! `claims list`: what this machine believes, unverified.

use std::fmt::Write as _;

use crabbox_core::Result;
use serde::Serialize;

use super::ClaimRecord;
use crate::json;
use crate::problem::{Problem, ProblemCode, printable};

/// Most problems that are listed.
const MOST_PROBLEMS: usize = 100;

/// The output of `claims list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClaimsListing {
    /// Version of this shape: 1.
    pub version: u32,
    /// `local-claims`.
    pub source: &'static str,
    /// The claims, by lease id, provider and slug.
    pub claims: Vec<ClaimRow>,
    /// What could not be read, at most 100, the last of which may say that there are more.
    pub problems: Vec<Problem>,
}

/// One claim as it is listed. Nothing is left out when it is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ClaimRow {
    /// Lease.
    pub lease_id: String,
    /// Friendly name.
    pub slug: String,
    /// Canonical provider name.
    pub provider: String,
    /// Checkout that owns the lease.
    pub repo_root: String,
    /// Peer group.
    pub pond: String,
    /// Target system.
    #[serde(rename = "targetOS")]
    pub target_os: String,
    /// Windows mode.
    pub windows_mode: String,
    /// When the checkout took the lease.
    pub claimed_at: String,
    /// When the lease was last used.
    pub last_used_at: String,
    /// Idle budget in seconds.
    pub idle_timeout_seconds: i64,
}

impl ClaimsListing {
    pub(super) fn new(claims: &[ClaimRecord], mut problems: Vec<Problem>) -> Self {
        let mut rows: Vec<ClaimRow> = claims.iter().map(ClaimRow::new).collect();
        rows.sort_by(|a, b| (&a.lease_id, &a.provider, &a.slug).cmp(&(&b.lease_id, &b.provider, &b.slug)));
        problems.sort();
        if problems.len() > MOST_PROBLEMS {
            let hidden = problems.len() - (MOST_PROBLEMS - 1);
            problems.truncate(MOST_PROBLEMS - 1);
            problems.push(Problem {
                file: String::new(),
                code: ProblemCode::ProblemsTruncated,
                message: format!("{hidden} more problems"),
            });
        }
        Self {
            version: 1,
            source: "local-claims",
            claims: rows,
            problems,
        }
    }

    /// Whether the command ends with status 2.
    pub fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// One line of JSON with its newline, escaped as the Go implementation does.
    ///
    /// # Errors
    /// `Other` when rendering fails, which plain text fields cannot cause.
    pub fn to_json(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&json::line(self)?).into_owned())
    }

    /// The listing for a person; hostile characters are escaped.
    pub fn to_text(&self) -> String {
        let mut out = String::from("# local claims on this machine; not verified with any provider\n");
        for row in &self.claims {
            let _ = write!(
                out,
                "{} slug={} provider={} repo={} claimed={} last_used={} idle_timeout={}s",
                printable(&row.lease_id),
                dash(&row.slug),
                dash(&row.provider),
                dash(&row.repo_root),
                dash(&row.claimed_at),
                dash(&row.last_used_at),
                row.idle_timeout_seconds,
            );
            for (name, value) in [
                ("pond", &row.pond),
                ("target", &row.target_os),
                ("windows_mode", &row.windows_mode),
            ] {
                if !value.is_empty() {
                    let _ = write!(out, " {name}={}", printable(value));
                }
            }
            out.push('\n');
        }
        if self.claims.is_empty() {
            out.push_str("no claims\n");
        }
        for problem in &self.problems {
            let code = serde_json::to_value(problem.code).unwrap_or_default();
            let code = code.as_str().unwrap_or_default();
            let _ = writeln!(
                out,
                "problem file={} code={code} message={}",
                dash(&problem.file),
                printable(&problem.message)
            );
        }
        out
    }
}

impl ClaimRow {
    fn new(claim: &ClaimRecord) -> Self {
        Self {
            lease_id: claim.lease_id.clone(),
            provider: claim.provider_name().to_owned(),
            slug: claim.slug.clone(),
            repo_root: claim.repo_root.clone(),
            pond: claim.pond.clone(),
            target_os: claim.target_os.clone(),
            windows_mode: claim.windows_mode.clone(),
            claimed_at: claim.claimed_at.clone(),
            last_used_at: claim.last_used_at.clone(),
            idle_timeout_seconds: claim.idle_timeout_seconds,
        }
    }
}

fn dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        printable(text)
    }
}
