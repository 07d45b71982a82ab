//! Where config files are.

use std::path::{Path, PathBuf};

use crabbox_core::runtime::Environment;
use crabbox_core::settings::Layer;
use crabbox_core::{Error, Result};

/// Names of repository files, the stronger one last.
const REPOSITORY_FILES: [&str; 2] = ["crabbox.yaml", ".crabbox.yaml"];

/// Rules for where a user's own files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// `$XDG_CONFIG_HOME`, else `$HOME/.config`.
    Unix,
    /// `$HOME/Library/Application Support`.
    Macos,
    /// `%AppData%`.
    Windows,
}

impl Platform {
    /// The platform that this was built for.
    pub const fn current() -> Self {
        if cfg!(target_os = "macos") {
            Self::Macos
        } else if cfg!(windows) {
            Self::Windows
        } else {
            Self::Unix
        }
    }

    pub(crate) fn home(self, environment: &Environment) -> Option<PathBuf> {
        let name = if self == Self::Windows { "USERPROFILE" } else { "HOME" };
        environment.get(name).map(PathBuf::from)
    }

    fn config_directory(self, environment: &Environment) -> Option<PathBuf> {
        match self {
            Self::Unix => match environment.get("XDG_CONFIG_HOME").map(PathBuf::from) {
                // A relative directory would depend on where the command is typed.
                Some(directory) => directory.is_absolute().then_some(directory),
                None => self.home(environment).map(|home| home.join(".config")),
            },
            Self::Macos => self
                .home(environment)
                .map(|home| home.join("Library/Application Support")),
            Self::Windows => environment
                .get("AppData")
                .or_else(|| environment.get("APPDATA"))
                .map(PathBuf::from),
        }
    }
}

/// The user's own config file, which `config path` prints. `CRABBOX_CONFIG` does not change it.
///
/// # Errors
///
/// `Usage` when the environment names no config directory.
pub fn user_file(environment: &Environment, platform: Platform) -> Result<PathBuf> {
    match platform.config_directory(environment) {
        Some(directory) => Ok(directory.join("crabbox").join("config.yaml")),
        None => Err(Error::usage("user config directory is unavailable")
            .with_hint("set `HOME`, or `XDG_CONFIG_HOME` to an absolute path, or `CRABBOX_CONFIG` to a file")),
    }
}

/// The file that config-writing commands change: `CRABBOX_CONFIG`, else the user's own.
///
/// # Errors
///
/// `Usage` when the environment names no config directory.
pub fn writable_file(environment: &Environment, platform: Platform, working_directory: &Path) -> Result<PathBuf> {
    match environment.get("CRABBOX_CONFIG") {
        Some(path) => Ok(working_directory.join(path)),
        None => user_file(environment, platform),
    }
}

/// The directory that holds the repository: the nearest one with `.git` or `.jj`, else the given directory itself.
pub fn repository_root(working_directory: &Path) -> PathBuf {
    let is_root = |directory: &&Path| [".git", ".jj"].iter().any(|name| directory.join(name).exists());
    working_directory
        .ancestors()
        .find(is_root)
        .unwrap_or(working_directory)
        .to_owned()
}

/// A file that may be read, weakest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    pub(crate) layer: Layer,
}

/// Every file that may be read, weakest first.
pub(crate) fn candidates(environment: &Environment, platform: Platform, working_directory: &Path) -> Vec<Candidate> {
    let root = repository_root(working_directory);
    let user = user_file(environment, platform).ok();
    if let Some(path) = environment.get("CRABBOX_CONFIG") {
        let path = working_directory.join(path);
        let trusted = user.as_ref() == Some(&path) || !is_inside(&path, &root);
        let layer = if trusted {
            Layer::UserFile
        } else {
            Layer::RepositoryFile
        };
        return vec![Candidate { path, layer }];
    }
    let mut found: Vec<Candidate> = user
        .into_iter()
        .map(|path| Candidate {
            path,
            layer: Layer::UserFile,
        })
        .collect();
    let mut directories: Vec<&Path> = working_directory
        .ancestors()
        .take_while(|directory| directory.starts_with(&root))
        .collect();
    directories.reverse();
    for directory in directories {
        let files = REPOSITORY_FILES.iter().map(|name| directory.join(name));
        found.extend(files.map(|path| Candidate {
            path,
            layer: Layer::RepositoryFile,
        }));
    }
    found
}

/// Whether a path is inside a directory, as it is written or after links are followed.
fn is_inside(path: &Path, directory: &Path) -> bool {
    let lexical = normalize(path).starts_with(normalize(directory));
    let resolve = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| normalize(path));
    // A file that does not exist yet is where its directory is.
    let real = match (path.exists(), path.parent(), path.file_name()) {
        (false, Some(parent), Some(name)) => resolve(parent).join(name),
        _ => resolve(path),
    };
    lexical || real.starts_with(resolve(directory))
}

fn normalize(path: &Path) -> PathBuf {
    use std::path::Component;
    path.components().fold(PathBuf::new(), |mut normal, component| {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
        normal
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().copied())
    }

    #[test]
    fn the_user_file_follows_the_platform() {
        let cases = [
            (
                Platform::Unix,
                vec![("HOME", "/h")],
                Some("/h/.config/crabbox/config.yaml"),
            ),
            (
                Platform::Unix,
                vec![("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")],
                Some("/x/crabbox/config.yaml"),
            ),
            (Platform::Unix, vec![("HOME", "/h"), ("XDG_CONFIG_HOME", "x")], None),
            (Platform::Unix, vec![], None),
            (
                Platform::Macos,
                vec![("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")],
                Some("/h/Library/Application Support/crabbox/config.yaml"),
            ),
            (
                Platform::Windows,
                vec![("AppData", "/a")],
                Some("/a/crabbox/config.yaml"),
            ),
        ];
        for (platform, variables, path) in cases {
            let found = user_file(&environment(&variables), platform);
            match path {
                Some(path) => assert_eq!(found.unwrap(), Path::new(path)),
                None => assert_eq!(found.unwrap_err().to_string(), "user config directory is unavailable"),
            }
        }
        let explicit = environment(&[("HOME", "/h"), ("CRABBOX_CONFIG", "c.yaml")]);
        assert_eq!(
            writable_file(&explicit, Platform::Unix, Path::new("/w")).unwrap(),
            Path::new("/w/c.yaml")
        );
        assert_eq!(
            user_file(&explicit, Platform::Unix).unwrap(),
            Path::new("/h/.config/crabbox/config.yaml")
        );
    }

    #[test]
    fn repository_files_are_found_up_to_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("repo");
        let inner = root.join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(root.join(".git")).unwrap();
        let paths = |working: &Path| -> Vec<String> {
            let found = candidates(&environment(&[("HOME", "/h")]), Platform::Unix, working);
            found
                .iter()
                .filter(|file| file.layer == Layer::RepositoryFile)
                .map(|file| file.path.strip_prefix(&root).unwrap().display().to_string())
                .collect()
        };
        assert_eq!(
            paths(&inner),
            [
                "crabbox.yaml",
                ".crabbox.yaml",
                "a/crabbox.yaml",
                "a/.crabbox.yaml",
                "a/b/crabbox.yaml",
                "a/b/.crabbox.yaml"
            ]
        );
        std::fs::remove_dir(root.join(".git")).unwrap();
        assert_eq!(paths(&inner), ["a/b/crabbox.yaml", "a/b/.crabbox.yaml"]);
    }

    #[cfg(unix)]
    #[test]
    fn an_explicit_file_inside_the_repository_is_not_trusted_even_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("repo");
        std::fs::create_dir_all(root.join(".git")).unwrap();
        let inside = root.join("c.yaml");
        std::fs::File::create(&inside).unwrap();
        let link = directory.path().join("link.yaml");
        std::os::unix::fs::symlink(&inside, &link).unwrap();
        let outside = directory.path().join("o.yaml");
        std::fs::File::create(&outside).unwrap();
        let out = root.join("out.yaml");
        std::os::unix::fs::symlink(&outside, &out).unwrap();
        for (path, layer) in [
            (inside.as_path(), Layer::RepositoryFile),
            (Path::new("c.yaml"), Layer::RepositoryFile),
            (link.as_path(), Layer::RepositoryFile),
            (out.as_path(), Layer::RepositoryFile),
            (Path::new("not-there.yaml"), Layer::RepositoryFile),
            (Path::new("../o.yaml"), Layer::UserFile),
            (outside.as_path(), Layer::UserFile),
        ] {
            let found = candidates(
                &environment(&[("CRABBOX_CONFIG", path.to_str().unwrap())]),
                Platform::Unix,
                &root,
            );
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].layer, layer, "{}", path.display());
        }
    }
}
