//! Where Crabbox keeps things, resolved from an environment that the caller hands in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crabbox_core::{Error, Result};

use crate::disk::Disk;

/// The rules by which directories are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Platform {
    /// Linux and other systems that follow the XDG base directories.
    Unix,
    /// macOS.
    MacOs,
    /// Windows.
    Windows,
}

impl Platform {
    /// The platform this program was built for.
    pub const fn current() -> Self {
        if cfg!(windows) {
            Self::Windows
        } else if cfg!(target_os = "macos") {
            Self::MacOs
        } else {
            Self::Unix
        }
    }
}

/// The three directories of one user. Nothing is created until something is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dirs {
    /// `config.yaml`, keys and known hosts.
    pub config: PathBuf,
    /// Claims, journal, runs and checkpoints.
    pub state: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
    /// The home and temporary directories, above which symbolic links are the system's business.
    pub trusted: Vec<PathBuf>,
}

impl Dirs {
    /// Finds the directories of this platform. See [`Dirs::for_platform`].
    ///
    /// # Errors
    /// As [`Dirs::for_platform`].
    pub fn resolve(environment: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        Self::for_platform(Platform::current(), environment)
    }

    /// Finds the directories from `XDG_CONFIG_HOME`, `XDG_STATE_HOME`, `XDG_CACHE_HOME` and `HOME`, or `AppData`,
    /// `LocalAppData` and `UserProfile` on Windows.
    ///
    /// `XDG_STATE_HOME` counts on every platform; without it state lives in `state` inside the config directory. An
    /// empty variable counts as absent.
    ///
    /// # Errors
    /// `Usage` when a variable that is needed is missing or names a relative path, which would scatter claims over
    /// working directories.
    pub fn for_platform(platform: Platform, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let find = |name: &str| directory(name, &environment);
        let home = find(if platform == Platform::Windows {
            "UserProfile"
        } else {
            "HOME"
        })?;
        let under_home = |relative: &str| match &home {
            Some(home) => Ok(home.join(relative)),
            None => Err(Error::usage("home directory unknown: `HOME`").with_hint("set HOME to your home directory")),
        };
        let needed = |name: &str| {
            find(name)?.ok_or_else(|| {
                Error::usage(format!("directory unknown: `{name}`"))
                    .with_hint(format!("set {name} to an absolute path"))
            })
        };
        let (config, cache) = match platform {
            Platform::Windows => (needed("AppData")?, needed("LocalAppData")?),
            Platform::MacOs => (
                under_home("Library/Application Support")?,
                under_home("Library/Caches")?,
            ),
            Platform::Unix => {
                let config = find("XDG_CONFIG_HOME")?.map_or_else(|| under_home(".config"), Ok)?;
                let cache = find("XDG_CACHE_HOME")?.map_or_else(|| under_home(".cache"), Ok)?;
                (config, cache)
            }
        };
        let config = config.join("crabbox");
        let state = find("XDG_STATE_HOME")?.map_or_else(|| config.join("state"), |base| base.join("crabbox"));
        // A relative TMPDIR is the business of whoever uses it; it just cannot be a boundary of trust.
        let temporary = environment("TMPDIR")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let trusted = home
            .into_iter()
            .chain(temporary)
            .chain([PathBuf::from("/tmp")])
            .collect();
        Ok(Self {
            config,
            state,
            cache: cache.join("crabbox"),
            trusted,
        })
    }

    /// Places everything below one directory: `config`, `state` and `cache`. For tests and embedding.
    pub fn under(root: impl AsRef<Path>) -> Self {
        let root = root.as_ref();
        Self {
            config: root.join("config"),
            state: root.join("state"),
            cache: root.join("cache"),
            trusted: vec![root.to_path_buf()],
        }
    }

    /// Creates the three directories, private to the user. Those that exist keep their mode.
    ///
    /// # Errors
    /// `Usage` when a directory cannot be written, `Other` for other failures of the disk.
    pub fn create(&self, disk: &Disk) -> Result<()> {
        [&self.config, &self.state, &self.cache]
            .into_iter()
            .try_for_each(|path| disk.create_directory(path))
    }
}

fn directory(name: &str, environment: &impl Fn(&str) -> Option<OsString>) -> Result<Option<PathBuf>> {
    let Some(value) = environment(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(value);
    // The rules of another platform are only ever tried in tests, where its absolute paths would not look absolute.
    let absolute = path.is_absolute() || path.to_string_lossy().get(1..3) == Some(":\\");
    if absolute {
        Ok(Some(path))
    } else {
        Err(Error::usage(format!("{name} is a relative path: `{}`", path.display()))
            .with_hint(format!("set {name} to an absolute path, or unset it")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(platform: Platform, variables: &[(&str, &str)]) -> Result<Dirs> {
        Dirs::for_platform(platform, |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_state_default_is_inside_the_config_directory() {
        let dirs = resolve(Platform::Unix, &[("HOME", "/home/ada")]).unwrap();
        assert_eq!(dirs.config, Path::new("/home/ada/.config/crabbox"));
        assert_eq!(dirs.state, Path::new("/home/ada/.config/crabbox/state"));
        assert_eq!(dirs.cache, Path::new("/home/ada/.cache/crabbox"));
        let dirs = resolve(
            Platform::MacOs,
            &[("HOME", "/Users/ada"), ("XDG_CONFIG_HOME", "/ignored")],
        )
        .unwrap();
        assert_eq!(dirs.config, Path::new("/Users/ada/Library/Application Support/crabbox"));
        assert_eq!(dirs.cache, Path::new("/Users/ada/Library/Caches/crabbox"));
    }

    #[test]
    fn xdg_state_home_counts_everywhere() {
        for platform in [Platform::Unix, Platform::MacOs] {
            let dirs = resolve(platform, &[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]).unwrap();
            assert_eq!(dirs.state, Path::new("/s/crabbox"));
        }
        let variables = [
            ("AppData", "C:\\Roaming"),
            ("LocalAppData", "C:\\Local"),
            ("XDG_STATE_HOME", "/s"),
            ("HOME", "ignored"),
        ];
        assert_eq!(
            resolve(Platform::Windows, &variables).unwrap().state,
            Path::new("/s/crabbox")
        );
    }

    #[test]
    fn home_is_not_needed_when_all_is_named() {
        let variables = [
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_STATE_HOME", "/s"),
            ("XDG_CACHE_HOME", "/k"),
            ("HOME", ""),
        ];
        assert_eq!(
            resolve(Platform::Unix, &variables).unwrap().config,
            Path::new("/c/crabbox")
        );
    }

    #[test]
    fn relative_and_missing_directories_are_refused_with_a_cure() {
        for (variables, message) in [
            (
                vec![("HOME", "/h"), ("XDG_STATE_HOME", "state")],
                "XDG_STATE_HOME is a relative path: `state`",
            ),
            (vec![("HOME", "home")], "HOME is a relative path: `home`"),
            (vec![], "home directory unknown: `HOME`"),
        ] {
            let error = resolve(Platform::Unix, &variables).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(error.kind().exit_code(), 2);
            assert!(error.hint().is_some());
        }
    }
}
