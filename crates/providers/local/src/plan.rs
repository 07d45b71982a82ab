//! What a new box will be, decided by the client and carried out by its supervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crabbox_core::runtime::{Directories, Environment};
use serde::{Deserialize, Serialize};

use crate::config::LocalConfig;

/// User and group of this machine that a box runs as when root starts it. No account has it: it lies in the part of the
/// id space that `uids-gids.md` of systemd lists as unused, above the ranges of containers and below 2^31.
pub(crate) const OUTER_ID: u32 = 2_000_000_000;

/// User and group inside a box.
pub(crate) const INNER_ID: u32 = 1000;

/// What a new box will be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    /// Host name inside.
    pub(crate) hostname: String,
    /// Whether the supervisor has the rights of real root.
    pub(crate) privileged: bool,
    /// User and group of this machine that the box runs as.
    pub(crate) outer: (u32, u32),
    /// Whether the box has a network of its own that leads nowhere.
    pub(crate) isolate_network: bool,
    /// Directories, files and sockets of this machine that look empty inside, canonical.
    pub(crate) hide: Vec<PathBuf>,
    /// Directories of this machine that are visible inside at the same place, read-only, but for what is hidden in them.
    pub(crate) show: Vec<PathBuf>,
    /// Most processes and threads.
    pub(crate) processes: u64,
    /// Most memory, where it can be limited.
    pub(crate) memory_bytes: Option<u64>,
    /// Environment of a command before its own variables are added.
    pub(crate) environment: BTreeMap<String, String>,
}

/// Directories below a home that hold programs and never credentials, and the variable by which their programs find them
/// when the home is another one.
const TOOLCHAINS: &[(&str, Option<&str>)] = &[
    (".asdf", Some("ASDF_DATA_DIR")),
    (".bun/bin", None),
    (".cargo/bin", None),
    (".deno/bin", None),
    (".dotnet", Some("DOTNET_ROOT")),
    (".ghcup/bin", None),
    (".juliaup/bin", None),
    (".local/bin", None),
    (".local/share/fnm", Some("FNM_DIR")),
    (".local/share/mise/installs", None),
    (".local/share/mise/shims", None),
    (".local/share/pipx/venvs", None),
    (".local/share/uv/python", None),
    (".local/share/uv/tools", None),
    (".nvm/versions", None),
    (".proto", Some("PROTO_HOME")),
    (".pyenv", Some("PYENV_ROOT")),
    (".rbenv", Some("RBENV_ROOT")),
    (".rustup", Some("RUSTUP_HOME")),
    (".sdkman/candidates", None),
    (".volta", Some("VOLTA_HOME")),
    ("go/bin", None),
    ("sdk", None),
];

/// Parts of a home that are never shown, whatever `PATH` says.
const PRIVATE: &[&str] = &[
    ".aws",
    ".azure",
    ".config",
    ".docker",
    ".gcloud",
    ".gnupg",
    ".kube",
    ".password-store",
    ".ssh",
];

/// Top-level directories of the host that do not appear of themselves: private ones take their names, or they are
/// places for other people's data.
pub(crate) const REPLACED: &[&str] = &[
    "boot",
    "dev",
    "home",
    "lost+found",
    "media",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var",
    "work",
];

/// Top-level directories, besides those of libraries, that hold the software of a machine and are visible read-only. Any
/// other may hold somebody's data, or homes under a second name, and has to be exposed by its owner.
const SOFTWARE: &[&str] = &["bin", "etc", "gnu", "nix", "opt", "sbin", "snap", "usr"];

/// Whether a top-level directory holds the software of a machine.
pub(crate) fn is_software(name: &str) -> bool {
    name.starts_with("lib") || SOFTWARE.contains(&name)
}

/// Files of the host that are hidden even from users who may read them.
const SENSITIVE: &[&str] = &[
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/ssl/private",
    "/etc/krb5.keytab",
    "/etc/kubernetes",
    "/etc/rancher",
    "/etc/wireguard",
    "/etc/NetworkManager/system-connections",
    // Behind it, builds run outside of the box, some of them with a network.
    "/nix/var/nix/daemon-socket",
];

/// Variables that travel from the client as they are, because programs of the host misbehave without them.
const INHERITED: &[&str] = &["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "COLORTERM"];

/// What a plan is made from.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a LocalConfig,
    pub(crate) environment: &'a Environment,
    pub(crate) directories: &'a Directories,
    pub(crate) privileged: bool,
    pub(crate) own: (u32, u32),
    pub(crate) isolate_network: bool,
}

impl Plan {
    /// Looks at the host and decides.
    pub(crate) fn make(inputs: &Inputs<'_>) -> Self {
        let home = inputs.environment.get("HOME").map(PathBuf::from);
        let mut environment = base_environment(inputs.environment);
        let mut show: BTreeSet<PathBuf> = inputs.config.expose.iter().map(PathBuf::from).collect();
        if inputs.config.toolchains == "auto" {
            let (places, variables) = toolchains(inputs.environment, home.as_deref());
            show.extend(places);
            environment.extend(variables);
        }
        let show: Vec<PathBuf> = show.into_iter().filter(|path| path.is_absolute()).collect();
        let mut hide = hidden(inputs.directories, home.as_deref());
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        hide.extend(doors(&sockets, &show));
        Self {
            hostname: "crabbox".into(),
            privileged: inputs.privileged,
            outer: if inputs.privileged {
                (OUTER_ID, OUTER_ID)
            } else {
                inputs.own
            },
            isolate_network: inputs.isolate_network,
            hide,
            show,
            processes: inputs.config.pids,
            memory_bytes: inputs.config.memory,
            environment,
        }
    }
}

fn base_environment(client: &Environment) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LANG", "C.UTF-8"),
        ("HOME", crate::HOME),
        ("USER", crate::USER),
        ("LOGNAME", crate::USER),
        ("SHELL", "/bin/sh"),
        ("TMPDIR", "/tmp"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    for name in INHERITED {
        if let Some(value) = client.get(name) {
            environment.insert((*name).to_owned(), value.to_owned());
        }
    }
    environment
}

/// Toolchains that `PATH` uses: their directories, and the variables by which they are found.
fn toolchains(client: &Environment, home: Option<&Path>) -> (Vec<PathBuf>, Vec<(String, String)>) {
    let mut places = Vec::new();
    let mut variables = Vec::new();
    let path = client.get("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(path).filter_map(|entry| elsewhere(&entry)));
    if let Some(home) = home.filter(|home| home.parent().is_some()) {
        let before = places.len();
        for entry in std::env::split_paths(path).filter(|entry| entry.is_absolute()) {
            let Ok(below) = entry.strip_prefix(home) else { continue };
            let private = below
                .components()
                .next()
                .is_none_or(|first| PRIVATE.iter().any(|name| first.as_os_str() == *name));
            if !private && !below.components().any(|part| part.as_os_str() == "..") && entry.is_dir() {
                places.push(entry);
            }
        }
        if places.len() > before {
            for (below, variable) in TOOLCHAINS {
                let place = home.join(below);
                if !place.is_dir() {
                    continue;
                }
                if let (Some(name), Some(text)) = (variable, place.to_str())
                    && client.get(name).is_none()
                {
                    variables.push(((*name).to_owned(), text.to_owned()));
                }
                places.push(place);
            }
        }
    }
    for (_, variable) in TOOLCHAINS {
        if let Some(name) = variable
            && let Some(value) = client.get(name)
            && Path::new(value).is_dir()
            && !holds_more_than_a_toolchain(Path::new(value), home)
        {
            places.push(PathBuf::from(value));
            variables.push(((*name).to_owned(), value.to_owned()));
        }
    }
    (places, variables)
}

/// What to show of a directory of `PATH` that lies in an unusual top-level directory: a program in `bin` often needs what
/// lies beside.
fn elsewhere(entry: &Path) -> Option<PathBuf> {
    let parts: Vec<&str> = entry
        .to_str()?
        .strip_prefix('/')?
        .trim_end_matches('/')
        .split('/')
        .collect();
    let plain = parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
    let usual = parts
        .first()
        .is_none_or(|top| is_software(top) || REPLACED.contains(top));
    if !plain || usual || !entry.is_dir() {
        return None;
    }
    match parts.as_slice() {
        [_, _, .., "bin" | "sbin"] => entry.parent().map(Path::to_path_buf),
        _ => Some(entry.to_path_buf()),
    }
}

/// Whether a place that a variable names is no toolchain but a home, something around it, or a private part of it.
fn holds_more_than_a_toolchain(place: &Path, home: Option<&Path>) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let place = real(place);
    let home = home.map(real);
    let around_home = home.as_deref().is_some_and(|home| home.starts_with(&place));
    let private = home.is_some_and(|home| PRIVATE.iter().any(|name| place.starts_with(home.join(name))));
    place.parent().is_none() || around_home || private
}

/// Sockets of services of this machine in places that a box sees, by the kernel's list of them. A read-only mount keeps
/// nobody from connecting.
fn doors(sockets: &str, shown: &[PathBuf]) -> BTreeSet<PathBuf> {
    sockets
        .lines()
        .filter_map(|line| Some(Path::new(&line[line.find(" /")? + 1..])))
        .filter_map(|path| path.canonicalize().ok())
        .filter(|path| {
            let top = path.components().nth(1).and_then(|part| part.as_os_str().to_str());
            top.is_some_and(is_software) || shown.iter().any(|outer| path.starts_with(outer))
        })
        .filter(|path| !shown.contains(path))
        .collect()
}

/// What must look empty: homes, wherever they are, Crabbox's own directories, and the files that make a user.
fn hidden(directories: &Directories, home: Option<&Path>) -> Vec<PathBuf> {
    let mut candidates: Vec<PathBuf> = SENSITIVE.iter().map(PathBuf::from).collect();
    candidates.extend(["/home", "/root"].map(PathBuf::from));
    candidates.extend(home.map(Path::to_path_buf));
    candidates.extend([&directories.config, &directories.state, &directories.cache].map(PathBuf::clone));
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    candidates.extend(homes(&accounts).map(PathBuf::from));
    if let Ok(entries) = std::fs::read_dir("/etc/ssh") {
        let keys = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().ends_with("_key"));
        candidates.extend(keys);
    }
    let hidden: BTreeSet<PathBuf> = candidates
        .into_iter()
        .filter_map(|path| path.canonicalize().ok())
        .filter(|path| path.parent().is_some())
        .collect();
    hidden.into_iter().collect()
}

/// Homes of people, by the lines of the account file: those of root and of ids from 1000 on.
fn homes(accounts: &str) -> impl Iterator<Item = &str> {
    accounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (id, home) = (fields.get(2)?.parse::<u32>().ok()?, *fields.get(5)?);
        let system = ["/", "/bin", "/dev", "/nonexistent", "/proc", "/sbin", "/usr", "/var"];
        let person = (id == 0 || id >= 1000) && home.starts_with('/') && !system.contains(&home.trim_end_matches('/'));
        (person && !home.is_empty() && home != "/").then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_those_of_people() {
        let accounts = "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/bin/sh\nann:x:1000:1000::/data/ann:/bin/sh\n\
                        nobody:x:65534:65534::/nonexistent:/bin/false\nbroken\nslash:x:1001:1::/:/bin/sh\n";
        assert_eq!(homes(accounts).collect::<Vec<_>>(), ["/root", "/data/ann"]);
    }

    #[test]
    fn toolchains_follow_the_path_and_never_credentials() {
        let home = tempfile::tempdir().unwrap();
        for below in [".cargo/bin", ".rustup", ".ssh/bin", ".aws/bin", "tools"] {
            std::fs::create_dir_all(home.path().join(below)).unwrap();
        }
        let join = |below: &str| home.path().join(below);
        let path = std::env::join_paths([
            PathBuf::from("/usr/bin"),
            join(".cargo/bin"),
            join(".ssh/bin"),
            join(".aws/bin"),
            join("tools"),
            join("missing"),
            home.path().to_path_buf(),
        ])
        .unwrap();
        let client = Environment::new([("PATH", path.into_string().unwrap())]);
        let (places, variables) = toolchains(&client, Some(home.path()));
        let places: BTreeSet<PathBuf> = places.into_iter().collect();
        assert_eq!(
            places,
            BTreeSet::from([join(".cargo/bin"), join(".rustup"), join("tools")])
        );
        assert_eq!(
            variables,
            [("RUSTUP_HOME".to_owned(), join(".rustup").to_str().unwrap().to_owned())]
        );
    }

    #[test]
    fn a_variable_that_names_a_home_shows_nothing() {
        let home = tempfile::tempdir().unwrap();
        let place = |below: &str| home.path().join(below);
        for below in [".aws/sdk", "tools"] {
            std::fs::create_dir_all(place(below)).unwrap();
        }
        for bad in [
            home.path().to_path_buf(),
            home.path().join(".."),
            "/".into(),
            place(".aws/sdk"),
        ] {
            let client = Environment::new([("DOTNET_ROOT", bad.to_str().unwrap())]);
            assert_eq!(
                toolchains(&client, Some(home.path())),
                (Vec::new(), Vec::new()),
                "{bad:?}"
            );
        }
        let client = Environment::new([("DOTNET_ROOT", place("tools").to_str().unwrap())]);
        assert_eq!(toolchains(&client, Some(home.path())).0, [place("tools")]);
    }

    #[test]
    fn of_unusual_places_only_those_on_the_path_are_shown() {
        for usual in [
            "/usr/bin",
            "/opt/x/bin",
            "/lib64/x",
            "/tmp/bin",
            "/proc/self",
            "bin",
            "/",
            "/x-missing/bin",
        ] {
            assert_eq!(elsewhere(Path::new(usual)), None, "{usual}");
        }
        assert!(!is_software("srv") && !is_software("data") && is_software("lib64") && is_software("usr"));
    }

    #[test]
    fn sockets_are_hidden_where_a_box_would_see_them() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().canonicalize().unwrap();
        for name in ["a b", "own"] {
            std::fs::File::create(place.join(name)).unwrap();
        }
        let line = |name: &str| format!("0: 2 0 10000 0001 01 7 {}/{name}\n", place.display());
        let table = format!(
            "Num RefCount Protocol Flags Type St Inode Path\n{}{}0: 2 0 0 1 1 8 @/tmp/.X11-unix/X0\n0: 2 0 0 1 1 9\n{}",
            line("a b"),
            line("own"),
            line("gone"),
        );
        assert!(doors(&table, &[]).is_empty());
        let shown = [place.clone(), place.join("own")];
        assert_eq!(doors(&table, &shown), BTreeSet::from([place.join("a b")]));
    }

    #[test]
    fn without_a_toolchain_on_the_path_nothing_of_the_home_is_shown() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".rustup")).unwrap();
        let client = Environment::new([("PATH", "/usr/bin")]);
        assert_eq!(toolchains(&client, Some(home.path())), (Vec::new(), Vec::new()));
    }

    #[test]
    fn the_environment_of_the_client_stays_outside() {
        let client = Environment::new([("PATH", "/usr/bin"), ("AWS_SECRET_ACCESS_KEY", "x"), ("HOME", "/root")]);
        let environment = base_environment(&client);
        assert_eq!(environment.get("HOME").map(String::as_str), Some(crate::HOME));
        assert_eq!(environment.get("PATH").map(String::as_str), Some("/usr/bin"));
        assert!(!environment.contains_key("AWS_SECRET_ACCESS_KEY"));
    }
}
