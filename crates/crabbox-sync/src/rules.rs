//! Which paths of a source travel: built-in excludes, configured rules, `.crabboxignore`, includes and protected paths.
//!
//! The last matching rule wins. Because a rule that matches a directory matches everything in it, a walk carries the
//! last match of each directory down and looks only at the newly added name; see [`Standing`].

use std::collections::HashMap;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;

use crabbox_core::{Error, Result};

use crate::glob::{Glob, has_meta};

/// Name of the rule file in a source's root.
pub const IGNORE_FILE: &str = ".crabboxignore";

/// Excludes that always come first.
pub const BUILT_IN_EXCLUDES: &[&str] = &[
    ".git",
    "._*",
    "node_modules",
    ".ignored",
    ".turbo",
    ".next",
    ".vite",
    ".parcel-cache",
    ".rollup.cache",
    "dist",
    "dist-runtime",
    "coverage",
    "playwright-report",
    "test-results",
    ".cache",
    ".tmp",
    ".local",
    ".swiftpm",
    ".build",
    "apps/*/.build",
    ".pnpm-store",
    ".npm",
    ".yarn/cache",
    ".venv",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".gradle",
    "target",
];

/// Excludes that nothing can re-include. They hold what other runs left behind and match without regard to case.
pub const PROTECTED_EXCLUDES: &[&str] = &[
    ".crabbox/env",
    ".crabbox/scripts",
    ".crabbox/logs",
    ".crabbox/captures",
    ".crabbox/runs",
];

/// Built-in excludes whose names projects also use for sources. They do not exclude tracked regular files.
const AMBIGUOUS: &[&str] = &[
    "dist",
    "dist-runtime",
    "coverage",
    "playwright-report",
    "test-results",
    ".build",
    "apps/*/.build",
    "target",
];

/// Where a rule came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuleOrigin {
    /// [`BUILT_IN_EXCLUDES`].
    BuiltIn,
    /// `sync.exclude` or `.crabboxignore`.
    Configured,
    /// [`PROTECTED_EXCLUDES`].
    Protected,
}

impl RuleOrigin {
    /// The digit that stands for it in the fingerprint.
    pub const fn digit(self) -> u8 {
        match self {
            Self::BuiltIn => 0,
            Self::Configured => 1,
            Self::Protected => 2,
        }
    }
}

#[derive(Clone, Debug)]
struct Rule {
    text: String,
    origin: RuleOrigin,
    negated: bool,
    ambiguous: bool,
}

/// Last rule that matched, as its place in the rule list plus one; zero is none.
type Place = u32;

/// Compiled rules.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Literal patterns without a slash, by component name: last rule, last rule that is not ambiguous.
    names: HashMap<Vec<u8>, (Place, Place)>,
    /// Literal patterns with a slash, by path from the root.
    paths: HashMap<Vec<u8>, (Place, Place)>,
    /// Globs without a slash: match any one component.
    name_globs: Vec<(Glob, Place)>,
    /// Globs with a slash: match the path of a file or of a directory above it, and `base_too` ones its last component.
    path_globs: Vec<(Glob, Place)>,
    /// Last negated rule.
    last_negated: Place,
    includes: Vec<Include>,
}

#[derive(Clone, Debug)]
struct Include {
    text: Vec<u8>,
    glob: Option<Glob>,
}

/// What the rules say of a directory, handed down to what is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Last match of all rules.
    all: Place,
    /// Last match of the rules that are not ambiguous built-ins.
    firm: Place,
    /// An include names this directory or one above it.
    included: bool,
    protected: bool,
}

/// What the rules say of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It travels.
    Travels,
    /// It travels because it is tracked, although the built-in exclude at this place names it.
    Protected(RuleIndex),
    /// It stays.
    Stays,
}

/// Names one rule of a [`Rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleIndex(u32);

impl Rules {
    /// Compiles built-ins, then `excludes` in order, then the protected paths, and the `includes`.
    pub fn new<E: AsRef<str>, I: AsRef<str>>(
        excludes: impl IntoIterator<Item = E>,
        includes: impl IntoIterator<Item = I>,
    ) -> Self {
        let mut rules = Self::default();
        for text in BUILT_IN_EXCLUDES {
            rules.add(text, RuleOrigin::BuiltIn);
        }
        for text in excludes {
            rules.add(text.as_ref(), RuleOrigin::Configured);
        }
        for text in PROTECTED_EXCLUDES {
            rules.add(text, RuleOrigin::Protected);
        }
        for text in includes {
            let text = text.as_ref().trim().trim_matches('/');
            if !text.is_empty() {
                let glob = has_meta(text.as_bytes()).then(|| Glob::new(text.as_bytes()));
                rules.includes.push(Include {
                    text: text.as_bytes().to_vec(),
                    glob,
                });
            }
        }
        rules
    }

    /// Compiles the rules of a source: as [`Rules::new`], with the lines of its `.crabboxignore` after `excludes`.
    ///
    /// # Errors
    /// `Usage` when `.crabboxignore` exists and cannot be read as text.
    pub fn load(root: &Path, excludes: &[String], includes: &[String]) -> Result<Self> {
        let path = root.join(IGNORE_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == IoErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(Error::usage(format!("read {}", path.display()))
                    .with_source(error)
                    .with_hint("make the file readable UTF-8 text, or remove it"));
            }
        };
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(Self::new(excludes.iter().map(String::as_str).chain(lines), includes))
    }

    fn add(&mut self, text: &str, origin: RuleOrigin) {
        let (negated, pattern) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (
                false,
                text.strip_prefix('\\')
                    .filter(|rest| rest.starts_with('!'))
                    .unwrap_or(text),
            ),
        };
        let pattern = pattern.trim_matches('/').as_bytes();
        if pattern.is_empty() {
            return;
        }
        let ambiguous = origin == RuleOrigin::BuiltIn && AMBIGUOUS.contains(&text);
        self.rules.push(Rule {
            text: text.to_owned(),
            origin,
            negated,
            ambiguous,
        });
        let place = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        if origin == RuleOrigin::Protected {
            return;
        }
        if negated {
            self.last_negated = place;
        }
        let with_slash = pattern.contains(&b'/');
        if has_meta(pattern) {
            let glob = Glob::new(pattern);
            if with_slash {
                &mut self.path_globs
            } else {
                &mut self.name_globs
            }
            .push((glob, place));
        }
        // A pattern with metacharacters also matches what is spelled the same.
        let literal = if with_slash { &mut self.paths } else { &mut self.names };
        let places = literal.entry(pattern.to_vec()).or_default();
        places.0 = place;
        if !ambiguous {
            places.1 = place;
        }
    }

    /// Every rule in order, with its origin and its text.
    pub fn list(&self) -> impl Iterator<Item = (RuleOrigin, &str)> {
        self.rules.iter().map(|rule| (rule.origin, rule.text.as_str()))
    }

    /// Whether there are includes.
    pub fn has_includes(&self) -> bool {
        !self.includes.is_empty()
    }

    /// Text of one rule.
    pub fn text(&self, index: RuleIndex) -> &str {
        &self.rules[index.0 as usize].text
    }

    /// What the rules say of the root.
    pub fn root(&self) -> Standing {
        Standing {
            included: self.includes.is_empty(),
            ..Standing::default()
        }
    }

    /// What the rules say of a directory in a directory that stands at `parent`. `path` is from the root, without a
    /// trailing slash.
    pub fn enter(&self, parent: Standing, path: &[u8]) -> Standing {
        self.look(parent, path, true)
    }

    /// What the rules say of a file in a directory that stands at `parent`.
    pub fn judge(&self, parent: Standing, path: &[u8], tracked_regular: bool) -> Verdict {
        let standing = self.look(parent, path, false);
        if standing.protected || !standing.included {
            return Verdict::Stays;
        }
        if !self.excludes(standing.all) {
            return Verdict::Travels;
        }
        if tracked_regular && !self.excludes(standing.firm) && self.rules[standing.all as usize - 1].ambiguous {
            return Verdict::Protected(RuleIndex(standing.all - 1));
        }
        Verdict::Stays
    }

    /// What the rules say of a file, from its path alone.
    pub fn judge_path(&self, path: &[u8], tracked_regular: bool) -> Verdict {
        let mut standing = self.root();
        for (slash, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            standing = self.enter(standing, &path[..slash]);
        }
        self.judge(standing, path, tracked_regular)
    }

    /// Whether nothing untracked in a directory can travel, so that it need not be read.
    pub fn closed(&self, standing: Standing, path: &[u8]) -> bool {
        standing.protected
            || (self.excludes(standing.all) && self.last_negated < standing.all)
            || self.outside_includes(standing, path)
    }

    /// Whether nothing at all in a directory can travel, not even tracked files.
    pub fn sealed(&self, standing: Standing, path: &[u8]) -> bool {
        standing.protected
            || (self.excludes(standing.firm) && self.last_negated < standing.firm)
            || self.outside_includes(standing, path)
    }

    fn outside_includes(&self, standing: Standing, path: &[u8]) -> bool {
        !standing.included && !self.includes.iter().any(|include| include.may_be_below(path))
    }

    fn excludes(&self, place: Place) -> bool {
        place > 0 && !self.rules[place as usize - 1].negated
    }

    fn look(&self, parent: Standing, path: &[u8], directory: bool) -> Standing {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let mut standing = parent;
        standing.protected = standing.protected || is_protected(path);
        let mut note = |all: Place, firm: Place| {
            standing.all = standing.all.max(all);
            standing.firm = standing.firm.max(firm);
        };
        if let Some((all, firm)) = self.names.get(name) {
            note(*all, *firm);
        }
        if !self.paths.is_empty()
            && let Some((all, firm)) = self.paths.get(path)
        {
            note(*all, *firm);
        }
        for (glob, place) in &self.name_globs {
            if *place > standing.firm && glob.matches(name) {
                let firm = if self.rules[*place as usize - 1].ambiguous {
                    0
                } else {
                    *place
                };
                standing.all = standing.all.max(*place);
                standing.firm = standing.firm.max(firm);
            }
        }
        for (glob, place) in &self.path_globs {
            // A slash may stand in a class only, so that even such a pattern can match the base name of a file.
            if *place > standing.firm && (glob.matches(path) || (!directory && glob.matches(name))) {
                let firm = if self.rules[*place as usize - 1].ambiguous {
                    0
                } else {
                    *place
                };
                standing.all = standing.all.max(*place);
                standing.firm = standing.firm.max(firm);
            }
        }
        standing.included = standing.included || self.includes.iter().any(|include| include.names(path, directory));
        standing
    }
}

impl Include {
    /// Whether the include names this path. A glob names files only, never what is in a directory.
    fn names(&self, path: &[u8], directory: bool) -> bool {
        self.text == path || (!directory && self.glob.as_ref().is_some_and(|glob| glob.matches(path)))
    }

    /// Whether something below a directory may be named.
    fn may_be_below(&self, directory: &[u8]) -> bool {
        if self.glob.is_some() {
            return true;
        }
        self.text.len() > directory.len() && self.text.starts_with(directory) && self.text[directory.len()] == b'/'
    }
}

/// Whether a path is, or lies under, a protected one.
pub fn is_protected(path: &[u8]) -> bool {
    // Cheap refusal of nearly every path.
    if path.first().is_none_or(|byte| *byte != b'.') {
        return false;
    }
    PROTECTED_EXCLUDES.iter().map(|text| text.as_bytes()).any(|protected| {
        path.len() >= protected.len()
            && path[..protected.len()].eq_ignore_ascii_case(protected)
            && path.get(protected.len()).is_none_or(|byte| *byte == b'/')
    })
}

/// Whether a path is relative and has neither empty, `.` nor `..` components.
pub fn is_safe_path(path: &[u8]) -> bool {
    !path.contains(&0)
        && path
            .split(|byte| *byte == b'/')
            .all(|part| !matches!(part, b"" | b"." | b".."))
}

#[cfg(test)]
mod tests;
