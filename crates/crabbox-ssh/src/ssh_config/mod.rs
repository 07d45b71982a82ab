//! The parts of the user's own `ssh_config` that people use for hosts of theirs.
//!
//! Read here rather than by a library because those at hand know neither `Match` nor tokens, and read the directives
//! of a `Match` block as if they belonged to the host before it.

mod line;

use std::path::{Path, PathBuf};

use crabbox_core::{Error, ErrorKind, IntoError as _, Result};

use self::line::{host_applies, rest, split, split_port};
use crate::destination::{Destination, HostKeyPolicy, Proxy};
use crate::known_hosts::wildcard;

/// Most nested `Include`s and jump hosts.
const DEPTH: usize = 16;

/// Values of the directives that we know for one host. The first value that the files give wins; files of keys add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostConfig {
    /// `HostName`.
    pub host_name: Option<String>,
    /// `Port`.
    pub port: Option<u16>,
    /// `User`.
    pub user: Option<String>,
    /// `IdentityFile`, in order.
    pub identity_files: Vec<String>,
    /// `CertificateFile`, in order.
    pub certificate_files: Vec<String>,
    /// `IdentitiesOnly`.
    pub identities_only: Option<bool>,
    /// `IdentityAgent`.
    pub identity_agent: Option<String>,
    /// `ProxyJump`; `none` switches it off.
    pub proxy_jump: Option<String>,
    /// `ProxyCommand`; `none` switches it off.
    pub proxy_command: Option<String>,
    /// `UserKnownHostsFile`.
    pub user_known_hosts: Option<Vec<String>>,
    /// `GlobalKnownHostsFile`.
    pub global_known_hosts: Option<Vec<String>>,
    /// `StrictHostKeyChecking`, in lower case.
    pub strict_host_key_checking: Option<String>,
    /// `HostKeyAlias`.
    pub host_key_alias: Option<String>,
    /// `ConnectTimeout` in seconds.
    pub connect_timeout_secs: Option<u64>,
}

/// The user's `ssh_config` files.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SshConfig {
    /// Files in order; the first value wins.
    pub files: Vec<PathBuf>,
    /// The user's home directory, for `~` and `%d`.
    pub home: PathBuf,
    /// The local user, for `%u` and where no `User` is given.
    pub local_user: String,
    /// Socket of the agent, where no `IdentityAgent` is given.
    pub agent: Option<PathBuf>,
}

impl SshConfig {
    /// The files that OpenSSH reads: the user's and the system's.
    pub fn new(home: impl Into<PathBuf>, local_user: impl Into<String>, agent: Option<PathBuf>) -> Self {
        let home = home.into();
        Self {
            files: vec![home.join(".ssh/config"), PathBuf::from("/etc/ssh/ssh_config")],
            home,
            local_user: local_user.into(),
            agent,
        }
    }

    /// What the files say about a host, by the name that the user gave.
    ///
    /// # Errors
    /// `Usage` with file and line when a directive that we know has no sense.
    pub fn query(&self, host: &str, user: Option<&str>) -> Result<HostConfig> {
        let mut config = HostConfig::default();
        for file in &self.files {
            self.read(file, host, user, &mut config, true, 0)?;
        }
        Ok(config)
    }

    /// A destination for a host of the user's, by the name that the user gave.
    ///
    /// User and port given here win over the files. Without `IdentityFile`, the usual names in `~/.ssh` are offered.
    /// The agent is never forwarded, whatever the files say.
    ///
    /// # Errors
    /// As [`SshConfig::query`]; `Usage` when jump hosts lead in a circle.
    pub fn destination(&self, host: &str, user: Option<&str>, port: Option<u16>) -> Result<Destination> {
        self.resolve(host, user, port, 0)
    }

    fn resolve(&self, host: &str, user: Option<&str>, port: Option<u16>, depth: usize) -> Result<Destination> {
        if depth > DEPTH {
            return Err(Error::usage(format!("jump hosts lead in a circle: `{host}`"))
                .with_hint("look at ProxyJump in ~/.ssh/config"));
        }
        let config = self.query(host, user)?;
        let real = match &config.host_name {
            Some(name) => name.replace("%h", host).replace("%%", "%"),
            None => host.to_owned(),
        };
        let user = user
            .map(str::to_owned)
            .or_else(|| config.user.clone())
            .unwrap_or_else(|| self.local_user.clone());
        let port = port.or(config.port).unwrap_or(22);
        let tokens = Tokens {
            config: self,
            original: host,
            host: &real,
            user: &user,
            port,
        };
        let mut destination = Destination::new(real.clone(), user.clone());
        destination.ports = vec![port];
        destination.identities_only = config.identities_only.unwrap_or(false);
        destination.host_key_alias = config.host_key_alias.clone();
        destination.certificates = config.certificate_files.iter().map(|file| tokens.path(file)).collect();
        destination.identities = config
            .identity_files
            .iter()
            .filter(|file| *file != "none")
            .map(|file| tokens.path(file))
            .collect();
        if config.identity_files.is_empty() {
            let usual = ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| self.home.join(".ssh").join(name));
            destination.identities = usual.into_iter().filter(|path| path.exists()).collect();
        }
        destination.agent = match config.identity_agent.as_deref() {
            Some("none") => None,
            None | Some("SSH_AUTH_SOCK") => self.agent.clone(),
            Some(socket) => Some(tokens.path(socket)),
        };
        let user_files = config
            .user_known_hosts
            .clone()
            .unwrap_or_else(|| vec!["~/.ssh/known_hosts".into(), "~/.ssh/known_hosts2".into()]);
        let global_files = config
            .global_known_hosts
            .clone()
            .unwrap_or_else(|| vec!["/etc/ssh/ssh_known_hosts".into(), "/etc/ssh/ssh_known_hosts2".into()]);
        destination.known_hosts = user_files
            .iter()
            .chain(&global_files)
            .filter(|file| *file != "none")
            .map(|file| tokens.path(file))
            .collect();
        destination.host_keys = match config.strict_host_key_checking.as_deref() {
            Some("yes") => HostKeyPolicy::Strict,
            Some("no" | "off") => HostKeyPolicy::Unchecked,
            // `ask` has nobody to ask: the first key is accepted and kept, as for every other box.
            _ => HostKeyPolicy::AcceptNew,
        };
        if let Some(seconds) = config.connect_timeout_secs.filter(|seconds| *seconds > 0) {
            destination.connect_timeout = std::time::Duration::from_secs(seconds);
        }
        let command = config
            .proxy_command
            .as_deref()
            .filter(|command| !command.eq_ignore_ascii_case("none"));
        let jump = config
            .proxy_jump
            .as_deref()
            .filter(|jump| !jump.eq_ignore_ascii_case("none"));
        destination.proxy = match (jump, command) {
            (Some(jumps), _) => self.jumps(jumps, depth)?,
            // `%n` is the name the user gave, which a destination does not keep.
            (None, Some(command)) => Some(Proxy::Command(command.replace("%n", host))),
            (None, None) => None,
        };
        Ok(destination)
    }

    /// `[user@]host[:port],…`: the last is next to the host, and is reached through the one before it.
    fn jumps(&self, jumps: &str, depth: usize) -> Result<Option<Proxy>> {
        let mut proxy: Option<Proxy> = None;
        for (index, jump) in jumps.split(',').enumerate() {
            let jump = jump.trim().strip_prefix("ssh://").unwrap_or(jump.trim());
            let (user, place) = jump
                .rsplit_once('@')
                .map_or((None, jump), |(user, place)| (Some(user), place));
            let (host, port) = split_port(place).ok_or_else(|| {
                Error::usage(format!("not a jump host: `{jump}`")).with_hint("write [user@]host[:port]")
            })?;
            let mut destination = self.resolve(host, user, port, depth + 1)?;
            if index > 0 {
                destination.proxy = proxy.take();
            }
            proxy = Some(Proxy::Jump(Box::new(destination)));
        }
        Ok(proxy)
    }

    fn read(
        &self,
        file: &Path,
        host: &str,
        user: Option<&str>,
        config: &mut HostConfig,
        applies: bool,
        depth: usize,
    ) -> Result<()> {
        let text = match std::fs::read(file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(cause).or_error(ErrorKind::Usage, || format!("read `{}`", file.display())),
        };
        let mut applies = applies;
        for (index, line) in text.lines().enumerate() {
            let Some((keyword, words)) = split(line) else { continue };
            let wrong = || {
                Error::usage(format!(
                    "{}:{}: not understood: `{}`",
                    file.display(),
                    index + 1,
                    line.trim()
                ))
                .with_hint("correct the line; `man ssh_config` describes it")
            };
            let value = words.first().cloned();
            match keyword.as_str() {
                "host" => applies = host_applies(&words, host),
                "match" => applies = self.match_applies(&words, host, user, config),
                _ if !applies => {}
                "include" if depth < DEPTH => {
                    for pattern in &words {
                        for included in self.included(file, pattern) {
                            self.read(&included, host, user, config, true, depth + 1)?;
                        }
                    }
                }
                "hostname" => first(&mut config.host_name, value.ok_or_else(wrong)?),
                "port" => {
                    let port = value
                        .and_then(|port| port.parse().ok())
                        .filter(|port| *port != 0)
                        .ok_or_else(wrong)?;
                    first(&mut config.port, port);
                }
                "user" => first(&mut config.user, value.ok_or_else(wrong)?),
                "identityfile" => config.identity_files.push(value.ok_or_else(wrong)?),
                "certificatefile" => config.certificate_files.push(value.ok_or_else(wrong)?),
                "identitiesonly" => {
                    let flag = match value.as_deref().map(str::to_lowercase).as_deref() {
                        Some("yes" | "true") => true,
                        Some("no" | "false") => false,
                        _ => return Err(wrong()),
                    };
                    first(&mut config.identities_only, flag);
                }
                "identityagent" => first(&mut config.identity_agent, value.ok_or_else(wrong)?),
                // Whichever comes first switches the other off.
                "proxyjump" if config.proxy_command.is_none() => {
                    first(&mut config.proxy_jump, value.ok_or_else(wrong)?)
                }
                "proxycommand" if config.proxy_jump.is_none() => {
                    let command = rest(line).filter(|command| !command.is_empty()).ok_or_else(wrong)?;
                    first(&mut config.proxy_command, command);
                }
                "userknownhostsfile" => first(&mut config.user_known_hosts, words),
                "globalknownhostsfile" => first(&mut config.global_known_hosts, words),
                "stricthostkeychecking" => {
                    first(
                        &mut config.strict_host_key_checking,
                        value.ok_or_else(wrong)?.to_lowercase(),
                    );
                }
                "hostkeyalias" => first(&mut config.host_key_alias, value.ok_or_else(wrong)?),
                "connecttimeout" => {
                    let seconds = value.and_then(|seconds| seconds.parse().ok()).ok_or_else(wrong)?;
                    first(&mut config.connect_timeout_secs, seconds);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `Match` with the criteria that need nothing but names. One that would run a command, or that we do not know,
    /// does not apply.
    fn match_applies(&self, words: &[String], original: &str, user: Option<&str>, config: &HostConfig) -> bool {
        let mut words = words.iter();
        while let Some(criterion) = words.next() {
            let (negated, name) = criterion
                .strip_prefix('!')
                .map_or((false, criterion.as_str()), |name| (true, name));
            let name = name.to_lowercase();
            let subject = match name.as_str() {
                "all" => {
                    if negated {
                        return false;
                    }
                    continue;
                }
                "host" => config.host_name.clone().unwrap_or_else(|| original.to_owned()),
                "originalhost" => original.to_owned(),
                "user" => user
                    .map(str::to_owned)
                    .or_else(|| config.user.clone())
                    .unwrap_or_else(|| self.local_user.clone()),
                "localuser" => self.local_user.clone(),
                _ => return false,
            };
            let Some(patterns) = words.next() else { return false };
            let patterns: Vec<String> = patterns.split(',').map(str::to_owned).collect();
            if host_applies(&patterns, &subject) == negated {
                return false;
            }
        }
        true
    }

    /// The files that an `Include` names; relative ones are beside the file itself.
    fn included(&self, file: &Path, pattern: &str) -> Vec<PathBuf> {
        let pattern = match pattern.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => file.parent().unwrap_or(Path::new("")).join(pattern),
        };
        let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
        else {
            return Vec::new();
        };
        if !name.contains(['*', '?']) {
            return vec![pattern.clone()];
        }
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Vec::new();
        };
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| {
                let entry = entry.file_name();
                let entry = entry.to_string_lossy();
                wildcard(name, &entry) && (!entry.starts_with('.') || name.starts_with('.'))
            })
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }
}

/// What tokens of paths stand for.
struct Tokens<'a> {
    config: &'a SshConfig,
    original: &'a str,
    host: &'a str,
    user: &'a str,
    port: u16,
}

impl Tokens<'_> {
    fn path(&self, text: &str) -> PathBuf {
        let mut path = String::with_capacity(text.len());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match (character, character == '%') {
                (character, false) => path.push(character),
                _ => match characters.next() {
                    Some('%') => path.push('%'),
                    Some('d') => path.push_str(&self.config.home.to_string_lossy()),
                    Some('h') => path.push_str(self.host),
                    Some('n') => path.push_str(self.original),
                    Some('p') => path.push_str(&self.port.to_string()),
                    Some('r') => path.push_str(self.user),
                    Some('u') => path.push_str(&self.config.local_user),
                    Some(other) => path.extend(['%', other]),
                    None => path.push('%'),
                },
            }
        }
        match path.strip_prefix("~/") {
            Some(rest) => self.config.home.join(rest),
            None => PathBuf::from(path),
        }
    }
}

fn first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, SshConfig) {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        put(&home.path().join(".ssh/config"), text);
        let mut config = SshConfig::new(home.path(), "me", Some("/agent".into()));
        config.files.truncate(1);
        (home, config)
    }

    fn put(path: &Path, text: &str) {
        std::io::Write::write_all(&mut std::fs::File::create(path).unwrap(), text.as_bytes()).unwrap();
    }

    #[test]
    fn the_first_value_wins_and_key_files_add_up() {
        let (home, config) = config(
            "Host web\n  HostName=10.0.0.1 # here\n  Port 2200\n  IdentityFile ~/.ssh/web\n\
             Host w* !wild\n  Port 99\n  User \"deploy er\"\n  IdentityFile %d/other-%r\n  IdentitiesOnly yes\n\
             Match user nobody\n  Port 1\nHost *\n  StrictHostKeyChecking YES\n  UserKnownHostsFile ~/a \"~/b c\"\n",
        );
        let web = config.destination("web", None, None).unwrap();
        assert_eq!(
            (web.host.as_str(), web.ports.as_slice(), web.user.as_str()),
            ("10.0.0.1", [2200].as_slice(), "deploy er")
        );
        assert_eq!(
            web.identities,
            [home.path().join(".ssh/web"), home.path().join("other-deploy er")]
        );
        assert!(web.identities_only);
        assert_eq!(web.host_keys, HostKeyPolicy::Strict);
        assert_eq!(web.known_hosts[..2], [home.path().join("a"), home.path().join("b c")]);
        assert_eq!(web.agent.as_deref(), Some(Path::new("/agent")));
        let wild = config.destination("wild", Some("x"), Some(7)).unwrap();
        assert_eq!((wild.ports.as_slice(), wild.user.as_str()), ([7].as_slice(), "x"));
    }

    #[test]
    fn match_blocks_do_not_leak_into_hosts() {
        let (_home, config) = config(
            "Host a\n  Port 5\nMatch exec \"true\"\n  Port 6\n  User evil\nMatch originalhost a,b user me\n  HostName real\n",
        );
        assert_eq!(config.query("b", None).unwrap().port, None);
        assert_eq!(config.query("b", None).unwrap().host_name.as_deref(), Some("real"));
        assert_eq!(config.query("b", Some("you")).unwrap().host_name, None);
        assert_eq!(config.query("a", None).unwrap().user, None);
    }

    #[test]
    fn jumps_and_commands() {
        let (_home, config) = config(
            "Host inner\n  ProxyJump me@outer:2022,middle\nHost outer\n  User out\nHost middle\n  ProxyCommand nc %h %p\n\
             Host cmd\n  ProxyCommand ssh -W %h:%p \"gate way\" %n\n  ProxyJump outer\nHost off\n  ProxyJump none\n\
             Host loop\n  ProxyJump loop\n",
        );
        let inner = config.destination("inner", None, None).unwrap();
        let Some(Proxy::Jump(middle)) = &inner.proxy else {
            panic!("{inner:?}")
        };
        assert_eq!(middle.host, "middle");
        let Some(Proxy::Jump(outer)) = &middle.proxy else {
            panic!("{middle:?}")
        };
        assert_eq!(
            (outer.host.as_str(), outer.user.as_str(), outer.ports.as_slice()),
            ("outer", "me", [2022].as_slice())
        );
        let cmd = config.destination("cmd", None, None).unwrap();
        let Some(Proxy::Command(command)) = &cmd.proxy else {
            panic!("{cmd:?}")
        };
        assert_eq!(command, "ssh -W %h:%p \"gate way\" cmd");
        assert!(config.destination("off", None, None).unwrap().proxy.is_none());
        assert!(
            config
                .destination("loop", None, None)
                .unwrap_err()
                .message()
                .contains("circle")
        );
    }

    #[test]
    fn includes_are_read_where_they_stand() {
        let (home, config) = config("Include conf.d/*.conf missing\nHost a\n  Port 1\n");
        let directory = home.path().join(".ssh/conf.d");
        std::fs::create_dir(&directory).unwrap();
        put(&directory.join("1.conf"), "Host a\n  User one\n");
        put(&directory.join("2.conf"), "Host *\n  User two\n");
        put(&directory.join("3.txt"), "User three\n");
        let found = config.query("a", None).unwrap();
        assert_eq!((found.user.as_deref(), found.port), (Some("one"), Some(1)));
        assert_eq!(config.query("b", None).unwrap().user.as_deref(), Some("two"));
    }

    #[test]
    fn nonsense_names_its_line() {
        let (home, config) = config("Host *\n\n  Port many\n");
        let error = config.query("a", None).unwrap_err();
        let file = home.path().join(".ssh/config");
        assert_eq!(
            error.message(),
            format!("{}:3: not understood: `Port many`", file.display())
        );
    }
}
