//! What the system's client is told, argument by argument.

use std::ffi::OsString;
use std::path::PathBuf;

use crabbox_core::id::hex;
use crabbox_core::{Error, Result};
use sha1::{Digest as _, Sha1};

use super::OpenSshOptions;
use crate::destination::{Destination, HostKeyPolicy, Proxy};
use crate::target::posix;

/// The client's arguments, in the order that wrappers rely on.
pub(super) fn arguments(
    destination: &Destination,
    options: &OpenSshOptions,
    port: u16,
    command: Option<&str>,
    stdin: bool,
) -> Result<Vec<OsString>> {
    let mut args = Arguments::default();
    for identity in &destination.identities {
        args.push("-i");
        args.push(identity.as_os_str());
    }
    if !destination.identities.is_empty() {
        args.option("IdentitiesOnly=yes");
    }
    for option in [
        "ForwardAgent=no",
        "ForwardX11=no",
        "ForwardX11Trusted=no",
        "BatchMode=yes",
    ] {
        args.option(option);
    }
    args.option(format!(
        "ConnectTimeout={}",
        destination.connect_timeout.as_secs().max(1)
    ));
    args.option(format!("ConnectionAttempts={}", options.attempts));
    args.option(format!(
        "ServerAliveInterval={}",
        destination.keepalive.as_secs().max(1)
    ));
    args.option(format!("ServerAliveCountMax={}", destination.keepalive_max));
    args.push("-p");
    args.push(port.to_string());
    host_key_options(&mut args, destination)?;
    if destination.multiplex && !cfg!(windows) {
        let path = format!(
            "{}/crabbox-ssh-{}-%C",
            options.control_directory.display(),
            control_hash(destination)
        );
        args.option("ControlMaster=auto");
        args.option("ControlPersist=10m");
        args.option(format!("ControlPath={path}"));
    } else {
        args.option("ControlMaster=no");
        args.option("ControlPath=none");
        args.option("ControlPersist=no");
    }
    for certificate in &destination.certificates {
        args.option(format!("CertificateFile={}", config_path(certificate)?));
    }
    match &destination.proxy {
        None => {}
        Some(Proxy::Command(command)) => args.option(format!("ProxyCommand={command}")),
        Some(Proxy::Jump(jump)) => args.option(format!("ProxyCommand={}", jump_command(jump, options)?)),
    }
    if !stdin {
        args.push("-n");
    }
    args.push(format!("{}@{}", destination.user, destination.host));
    if let Some(command) = command {
        args.push(command);
    }
    Ok(args.0)
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn push(&mut self, arg: impl Into<OsString>) {
        self.0.push(arg.into());
    }

    fn option(&mut self, option: impl Into<OsString>) {
        self.push("-o");
        self.push(option);
    }
}

/// The client through which a jump host is reached, as a line for the shell.
fn jump_command(jump: &Destination, options: &OpenSshOptions) -> Result<String> {
    let mut alone = jump.clone();
    alone.multiplex = false;
    let port = jump.ports.first().copied().unwrap_or(22);
    let mut words = vec![posix::quote_readably(&options.program.to_string_lossy())];
    for arg in arguments(&alone, options, port, None, true)? {
        let Some(arg) = arg.to_str() else {
            return Err(Error::usage(format!("not UTF-8: `{}`", arg.to_string_lossy())));
        };
        words.push(posix::quote_readably(&arg.replace('%', "%%")));
    }
    let place = words.pop().unwrap_or_default();
    Ok(format!("{} -W '[%h]:%p' {place}", words.join(" ")))
}

fn host_key_options(args: &mut Arguments, destination: &Destination) -> Result<()> {
    if destination.host_keys == HostKeyPolicy::Unchecked {
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ] {
            args.option(option);
        }
        return Ok(());
    }
    let pinned = matches!(
        destination.host_keys,
        HostKeyPolicy::Pinned(_) | HostKeyPolicy::PinnedFile
    );
    let new = destination.host_keys == HostKeyPolicy::AcceptNew && destination.host_key_alias.is_none();
    args.option(if new {
        "StrictHostKeyChecking=accept-new"
    } else {
        "StrictHostKeyChecking=yes"
    });
    if destination.known_hosts.is_empty() {
        return Err(Error::usage(format!(
            "no known hosts file for the ssh client: `{}`",
            destination.host
        ))
        .with_hint("give the lease a known hosts file"));
    }
    let files = destination
        .known_hosts
        .iter()
        .map(|file| config_path(file))
        .collect::<Result<Vec<_>>>()?;
    args.option(format!("UserKnownHostsFile={}", files.join(" ")));
    if pinned {
        for option in [
            "GlobalKnownHostsFile=none",
            "KnownHostsCommand=none",
            "VerifyHostKeyDNS=no",
            "UpdateHostKeys=no",
            "CheckHostIP=no",
        ] {
            args.option(option);
        }
    }
    if let Some(alias) = &destination.host_key_alias {
        args.option(format!("HostKeyAlias={alias}"));
        let algorithm = match &destination.host_keys {
            HostKeyPolicy::Pinned(key) => key.split_whitespace().next().unwrap_or("ssh-ed25519"),
            _ => "ssh-ed25519",
        };
        let algorithms = if algorithm == "ssh-rsa" {
            "rsa-sha2-512,rsa-sha2-256"
        } else {
            algorithm
        };
        args.option(format!("HostKeyAlgorithms={algorithms}"));
    }
    Ok(())
}

/// A path as a value of the client's configuration.
fn config_path(path: &std::path::Path) -> Result<String> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(['"', '\n', '\r']) && !text.contains("${"));
    let Some(text) = text else {
        return Err(Error::usage(format!(
            "the ssh client cannot be given this path: `{}`",
            path.display()
        ))
        .with_hint("move the file to a path without quotes and variables"));
    };
    let text = text.replace('%', "%%");
    Ok(if text.contains([' ', '\t', '\'']) {
        format!("\"{text}\"")
    } else {
        text
    })
}

/// Keeps apart shared connections that were opened with other keys or other trust, which `%C` does not.
fn control_hash(destination: &Destination) -> String {
    let path = |paths: &[PathBuf]| {
        paths
            .first()
            .map_or_else(String::new, |path| path.display().to_string())
    };
    let key = match &destination.host_keys {
        HostKeyPolicy::Pinned(key) => key.trim(),
        _ => "",
    };
    let proxy = match &destination.proxy {
        Some(Proxy::Command(command)) => command.clone(),
        Some(Proxy::Jump(jump)) => format!("{}@{}", jump.user, jump.host),
        None => String::new(),
    };
    let parts = [
        destination.user.clone(),
        path(&destination.identities),
        path(&destination.certificates),
        path(&destination.known_hosts),
        destination.host_key_alias.clone().unwrap_or_default(),
        key.to_owned(),
        proxy,
    ];
    hex(&Sha1::digest(parts.join("\0").as_bytes())[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(destination: &Destination, command: Option<&str>, stdin: bool) -> String {
        let args = arguments(destination, &OpenSshOptions::default(), 2222, command, stdin).unwrap();
        let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        words.join("\n")
    }

    fn lease() -> Destination {
        let mut destination = Destination::new("10.0.0.1", "crabbox");
        destination.identities = vec!["/c/testboxes/cbx_1/id_ed25519".into()];
        destination.known_hosts = vec!["/c/test boxes/cbx_1/known_hosts".into()];
        destination
    }

    #[test]
    fn arguments_of_a_lease() {
        insta::assert_snapshot!(text(&lease(), Some("true"), false));
    }

    #[test]
    fn arguments_of_a_pinned_lease_behind_a_jump_host() {
        let mut destination = lease();
        destination.host_keys = HostKeyPolicy::Pinned("ssh-rsa AAAA\n".into());
        destination.host_key_alias = Some("crabbox-lease-1".into());
        destination.multiplex = false;
        let mut jump = Destination::new("jump.test", "me");
        jump.host_keys = HostKeyPolicy::Unchecked;
        jump.ports = vec![2022];
        destination.proxy = Some(Proxy::Jump(Box::new(jump)));
        insta::assert_snapshot!(text(&destination, None, true));
    }

    #[test]
    fn shared_connections_are_kept_apart_by_trust() {
        let mut other = lease();
        assert_eq!(control_hash(&other), control_hash(&lease()));
        other.known_hosts = vec!["/elsewhere".into()];
        assert_ne!(control_hash(&other), control_hash(&lease()));
        assert_eq!(control_hash(&other).len(), 8);
    }

    #[test]
    fn paths_that_the_client_would_read_differently() {
        let path = |text: &str| config_path(std::path::Path::new(text));
        assert_eq!(path("/a b/%h").unwrap(), "\"/a b/%%h\"");
        assert!(path("/a\"b").is_err());
        assert!(path("/a${HOME}").is_err());
    }
}
