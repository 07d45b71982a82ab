//! Git's standard excludes: `.gitignore` of each directory, `info/exclude` and `core.excludesFile`.

use std::path::Path;
use std::sync::Arc;

use gix::bstr::{BStr, ByteSlice as _};
use gix::glob::pattern::Case;
use gix::glob::{Pattern, wildmatch};

/// The patterns that apply in a directory, innermost first.
#[derive(Clone, Default)]
pub(super) struct Ignores(Option<Arc<Node>>);

struct Node {
    /// Length of the path, with its slash, that the patterns are relative to.
    base: usize,
    patterns: Vec<Pattern>,
    outer: Ignores,
}

impl Ignores {
    /// The patterns that apply everywhere: `info/exclude`, then the user's own file.
    pub(super) fn global(repository: &gix::Repository) -> Self {
        let config = repository.config_snapshot();
        let user = config
            .trusted_path("core.excludesFile")
            .ok()
            .flatten()
            .or_else(|| gix::path::env::xdg_config("ignore", &mut gix::path::env::var));
        let mut ignores = Self::default();
        for file in user.into_iter().chain([repository.common_dir().join("info/exclude")]) {
            if let Ok(text) = std::fs::read(&file) {
                ignores = ignores.with(0, &text);
            }
        }
        ignores
    }

    /// Adds the `.gitignore` of a directory. Like git, it does not follow a link in its place.
    pub(super) fn enter(&self, directory: &Path, base: usize) -> Self {
        let file = directory.join(".gitignore");
        if !file.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            return self.clone();
        }
        match std::fs::read(&file) {
            Ok(text) => self.with(base, &text),
            Err(_) => self.clone(),
        }
    }

    fn with(&self, base: usize, text: &[u8]) -> Self {
        let patterns: Vec<Pattern> = gix::ignore::parse(text, false).map(|(pattern, _, _)| pattern).collect();
        if patterns.is_empty() {
            return self.clone();
        }
        Self(Some(Arc::new(Node {
            base,
            patterns,
            outer: self.clone(),
        })))
    }

    /// Whether the last matching pattern of the innermost file that has one ignores the path.
    pub(super) fn ignores(&self, path: &[u8], directory: bool, case: Case) -> bool {
        let mut next = &self.0;
        while let Some(node) = next {
            let relative: &BStr = path[node.base..].as_bstr();
            let base_name = relative.rfind_byte(b'/').map(|slash| slash + 1);
            let mode = wildmatch::Mode::NO_MATCH_SLASH_LITERAL;
            let last =
                node.patterns.iter().rev().find(|pattern| {
                    pattern.matches_repo_relative_path(relative, base_name, Some(directory), case, mode)
                });
            if let Some(pattern) = last {
                return !pattern.is_negative();
            }
            next = &node.outer.0;
        }
        false
    }
}

/// The paths that a sparse checkout keeps on disk.
pub(super) enum Sparse {
    /// Sparse checkout is off.
    Off,
    /// It is on, and these patterns name what is kept.
    Patterns(Vec<Pattern>),
    /// It is on, and its patterns cannot be read.
    Unknown,
}

impl Sparse {
    pub(super) fn of(repository: &gix::Repository) -> Self {
        if repository.config_snapshot().boolean("core.sparseCheckout") != Some(true) {
            return Self::Off;
        }
        match std::fs::read(repository.git_dir().join("info/sparse-checkout")) {
            Ok(text) => Self::Patterns(
                gix::ignore::parse(&text, false)
                    .map(|(pattern, _, _)| pattern)
                    .collect(),
            ),
            Err(_) => Self::Unknown,
        }
    }

    /// Whether a tracked file that is absent may be absent because of the sparse checkout.
    pub(super) fn may_leave_out(&self, path: &[u8], case: Case) -> bool {
        match self {
            Self::Off => false,
            Self::Unknown => true,
            Self::Patterns(patterns) => !kept(patterns, path, case),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }
}

/// The last matching pattern decides; without one, that of the directory above does.
fn kept(patterns: &[Pattern], path: &[u8], case: Case) -> bool {
    let mut path = path.as_bstr();
    let mut directory = false;
    loop {
        let base_name = path.rfind_byte(b'/').map(|slash| slash + 1);
        let mode = wildmatch::Mode::NO_MATCH_SLASH_LITERAL;
        let last = patterns
            .iter()
            .rev()
            .find(|pattern| pattern.matches_repo_relative_path(path, base_name, Some(directory), case, mode));
        if let Some(pattern) = last {
            return !pattern.is_negative();
        }
        let Some(start) = base_name else { return false };
        path = path[..start - 1].as_bstr();
        directory = true;
    }
}
