//! Finds out how a repository is tested, from its build files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Directories that never hold a package of their own.
const SKIPPED: &[&str] = &[
    ".git",
    ".jj",
    "node_modules",
    "dist",
    "dist-runtime",
    "bin",
    ".cache",
    ".turbo",
    ".venv",
    "venv",
    "target",
    "vendor",
    ".crabbox",
];

/// How deep packages are looked for.
const DEPTH: usize = 5;

/// What `npm init` writes where a test should be.
const PLACEHOLDER: &str = "no test specified";

/// Largest build file that is read, in bytes.
const LARGEST: u64 = 4 * 1024 * 1024;

/// A way to test a part of the repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Detected {
    /// The tool: `cargo`, `go`, `npm`, `pnpm`, `yarn`, `bun`, `make` or `python`.
    pub(crate) tool: &'static str,
    /// Directory below the repository, with `/` between its parts; empty for the repository itself.
    pub(crate) directory: String,
    /// Command for a POSIX shell, to be run in that directory.
    pub(crate) command: String,
}

impl Detected {
    /// The command as it is run from the top of the repository.
    pub(crate) fn at_root(&self) -> String {
        if self.directory.is_empty() {
            self.command.clone()
        } else {
            format!("(cd {} && {})", quoted(&self.directory), self.command)
        }
    }
}

/// Looks at the build files of a repository, in the order of directories.
pub(crate) fn detect(root: &Path) -> Vec<Detected> {
    let mut found = Vec::new();
    walk(root, root, Parents::default(), 0, &mut found);
    found
}

/// What directories above have already.
#[derive(Clone, Copy, Default)]
struct Parents {
    node: bool,
    cargo: bool,
    make: bool,
    python: bool,
}

fn walk(root: &Path, directory: &Path, parents: Parents, depth: usize, found: &mut Vec<Detected>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut names = BTreeMap::new();
    for entry in entries.filter_map(Result::ok) {
        if let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) {
            names.insert(name, kind);
        }
    }
    let has = |name: &str| names.get(name).is_some_and(fs::FileType::is_file);
    let place = relative(root, directory);
    let mut add = |tool, command: String| {
        found.push(Detected {
            tool,
            directory: place.clone(),
            command,
        })
    };
    let mut below = parents;

    if has("Cargo.toml") {
        // A workspace tests its members.
        if !parents.cargo {
            add("cargo", "cargo test".to_owned());
        }
        below.cargo = true;
    }
    if has("go.mod") {
        add("go", "go test ./...".to_owned());
    }
    if has("package.json") {
        let own_lock = NODE_LOCKS.iter().any(|(lock, _)| has(lock));
        if (own_lock || !parents.node)
            && let Some((tool, command)) = node(directory, &has)
        {
            add(tool, command);
        }
        below.node = true;
    }
    if !parents.python && (has("pyproject.toml") || has("pytest.ini") || has("setup.py") || has("tox.ini")) {
        if let Some(command) = python(directory, &has, names.contains_key("tests")) {
            add("python", command);
        }
        below.python = true;
    }
    if !parents.make && (has("Makefile") || has("makefile") || has("GNUmakefile")) {
        if makes_test(directory) {
            add("make", "make test".to_owned());
        }
        below.make = true;
    }
    if depth == DEPTH {
        return;
    }
    for (name, kind) in &names {
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            walk(root, &directory.join(name), below, depth + 1, found);
        }
    }
}

const NODE_LOCKS: &[(&str, &str)] = &[
    ("pnpm-lock.yaml", "pnpm"),
    ("yarn.lock", "yarn"),
    ("bun.lock", "bun"),
    ("bun.lockb", "bun"),
    ("package-lock.json", "npm"),
    ("npm-shrinkwrap.json", "npm"),
];

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Package {
    package_manager: Option<String>,
    scripts: BTreeMap<String, String>,
}

fn node(directory: &Path, has: &dyn Fn(&str) -> bool) -> Option<(&'static str, String)> {
    let package: Package = serde_json::from_str(&text(&directory.join("package.json"))?).ok()?;
    let named = package.package_manager.as_deref().and_then(|text| {
        let name = text.split('@').next().unwrap_or_default();
        ["npm", "pnpm", "yarn", "bun"].into_iter().find(|known| *known == name)
    });
    let locked = || NODE_LOCKS.iter().find(|(lock, _)| has(lock)).map(|(_, tool)| *tool);
    let tool = named.or_else(locked).unwrap_or("npm");
    let script = ["test:ci", "test", "check", "build"].into_iter().find(|name| {
        package
            .scripts
            .get(*name)
            .is_some_and(|body| !body.trim().is_empty() && !body.contains(PLACEHOLDER))
    })?;
    let install = match tool {
        "npm" if has("package-lock.json") || has("npm-shrinkwrap.json") => "npm ci",
        "npm" => "npm install",
        "pnpm" if has("pnpm-lock.yaml") => "pnpm install --frozen-lockfile",
        "pnpm" => "pnpm install",
        "yarn" => "yarn install",
        _ => "bun install",
    };
    Some((tool, format!("{install} && {tool} run {script}")))
}

fn python(directory: &Path, has: &dyn Fn(&str) -> bool, has_tests: bool) -> Option<String> {
    let project = text(&directory.join("pyproject.toml")).unwrap_or_default();
    if has("uv.lock") {
        return Some("uv run pytest".to_owned());
    }
    if has("poetry.lock") {
        return Some("poetry install && poetry run pytest".to_owned());
    }
    if has("tox.ini") || project.contains("[tool.tox") {
        return Some("tox".to_owned());
    }
    let with_pytest = has("pytest.ini") || project.contains("pytest") || has_tests;
    with_pytest.then(|| "python3 -m pytest".to_owned())
}

fn makes_test(directory: &Path) -> bool {
    // The order in which make itself looks.
    let names = ["GNUmakefile", "makefile", "Makefile"];
    let Some(text) = names.iter().find_map(|name| text(&directory.join(name))) else {
        return false;
    };
    text.lines().any(|line| {
        let target = line.strip_prefix("test").map(str::trim_start);
        target.is_some_and(|rest| rest.starts_with(':') && !rest.starts_with(":="))
    })
}

fn text(path: &Path) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    if size > LARGEST {
        None
    } else {
        fs::read_to_string(path).ok()
    }
}

fn relative(root: &Path, directory: &Path) -> String {
    let path: PathBuf = directory.strip_prefix(root).unwrap_or(directory).to_path_buf();
    let parts: Vec<_> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    parts.join("/")
}

fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_./-".contains(character);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut file = fs::File::create(path).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        }
        detect(root.path()).iter().map(Detected::at_root).collect()
    }

    type Files<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn each_tool_is_recognised() {
        let test = r#"{"scripts":{"test":"vitest"}}"#;
        let cases: &[(Files<'_>, &[&str])] = &[
            (&[("Cargo.toml", "")], &["cargo test"]),
            (&[("go.mod", "")], &["go test ./..."]),
            (&[("package.json", test)], &["npm install && npm run test"]),
            (
                &[("package.json", test), ("package-lock.json", "")],
                &["npm ci && npm run test"],
            ),
            (
                &[("package.json", test), ("pnpm-lock.yaml", "")],
                &["pnpm install --frozen-lockfile && pnpm run test"],
            ),
            (
                &[("package.json", test), ("yarn.lock", "")],
                &["yarn install && yarn run test"],
            ),
            (
                &[("package.json", test), ("bun.lock", "")],
                &["bun install && bun run test"],
            ),
            (
                &[(
                    "package.json",
                    r#"{"packageManager":"pnpm@9.1.0","scripts":{"test":"a","test:ci":"b"}}"#,
                )],
                &["pnpm install && pnpm run test:ci"],
            ),
            (&[("Makefile", "all:\ntest: all\n\tctest\n")], &["make test"]),
            (&[("Makefile", "test := 1\ntests:\n")], &[]),
            (
                &[("pyproject.toml", "[tool.pytest.ini_options]")],
                &["python3 -m pytest"],
            ),
            (&[("pyproject.toml", ""), ("uv.lock", "")], &["uv run pytest"]),
            (&[("setup.py", "")], &[]),
        ];
        for (files, expected) in cases {
            assert_eq!(commands(files), *expected, "{files:?}");
        }
    }

    #[test]
    fn placeholders_and_nested_packages_are_skipped() {
        let npm_init = r#"{"scripts":{"test":"echo \"Error: no test specified\" && exit 1","build":"tsc"}}"#;
        assert_eq!(
            commands(&[("package.json", npm_init)]),
            ["npm install && npm run build"]
        );
        let test = r#"{"scripts":{"test":"vitest"}}"#;
        assert_eq!(
            commands(&[
                ("package.json", test),
                ("packages/a/package.json", test),
                ("packages/b/package.json", test),
                ("packages/b/yarn.lock", ""),
                ("node_modules/c/package.json", test),
                ("Cargo.toml", ""),
                ("crates/x/Cargo.toml", ""),
                ("tool dir/go.mod", ""),
            ]),
            [
                "cargo test",
                "npm install && npm run test",
                "(cd packages/b && yarn install && yarn run test)",
                "(cd 'tool dir' && go test ./...)",
            ]
        );
    }
}
