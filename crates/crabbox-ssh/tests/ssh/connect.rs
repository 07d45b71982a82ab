//! Getting in: keys, certificates, agents, host keys, ports, proxies.

use std::fs;
use std::process::{Command, Stdio};

use crabbox_core::ErrorKind;
use crabbox_ssh::{ConnectFailure, Destination, HostKeyPolicy, Phase, Proxy, Session, SshConfig, SshRemote};

use crate::support::{Sshd, free_ports, keygen, output, sh, until};

async fn works(destination: Destination) -> Session {
    let session = Session::connect(destination).await.unwrap();
    assert_eq!(sh(&SshRemote::new(session.clone()).unwrap(), "echo in").await, "in\n");
    session
}

async fn fails(destination: Destination) -> (ErrorKind, Phase, String) {
    let error = Session::connect(destination).await.unwrap_err();
    let phase = ConnectFailure::of(&error).unwrap().phase();
    assert!(error.hint().is_some());
    (error.kind(), phase, error.to_string())
}

#[tokio::test]
async fn keys_of_every_type_let_in() {
    let sshd = Sshd::start();
    for kind in ["ed25519", "rsa", "ecdsa"] {
        let key = sshd.path(kind);
        keygen(&key, kind);
        fs::copy(sshd.path(&format!("{kind}.pub")), sshd.path("authorized_keys")).unwrap();
        let mut destination = sshd.destination();
        destination.identities = vec![key];
        works(destination).await;
    }
    let log = fs::read_to_string(sshd.path("log")).unwrap();
    assert!(log.contains("Accepted publickey") && log.contains("RSA"), "{log}");
}

#[tokio::test]
async fn a_refused_key_is_named() {
    let sshd = Sshd::start();
    let stranger = sshd.path("stranger");
    keygen(&stranger, "ed25519");
    let mut destination = sshd.destination();
    destination.identities = vec![stranger];
    let (kind, phase, text) = fails(destination.clone()).await;
    assert_eq!((kind, phase), (ErrorKind::Prerequisite, Phase::Authentication));
    assert!(text.contains("tried ssh-ed25519 SHA256:"), "{text}");
    // The right one after it lets in.
    destination.identities.push(sshd.path("user"));
    works(destination).await;
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_explained() {
    use std::os::unix::fs::PermissionsExt as _;
    let sshd = Sshd::start();
    let mut destination = sshd.destination();
    destination.identities = vec![sshd.path("missing")];
    assert!(fails(destination.clone()).await.2.contains("missing does not exist"));
    let open = sshd.path("open");
    fs::copy(sshd.path("user"), &open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    destination.identities = vec![open];
    assert!(fails(destination.clone()).await.2.contains("mode 0600"));
    let locked = sshd.path("locked");
    output(
        Command::new("ssh-keygen")
            .args(["-q", "-N", "secret", "-t", "ed25519", "-f"])
            .arg(&locked),
    );
    destination.identities = vec![locked];
    assert!(fails(destination.clone()).await.2.contains("encrypted"));
    destination.identities.clear();
    assert!(fails(destination).await.2.contains("there is no key to offer"));
}

#[tokio::test]
async fn certificates_let_in() {
    let sshd = Sshd::start();
    keygen(&sshd.path("authority"), "ed25519");
    for kind in ["ed25519", "rsa"] {
        let key = sshd.path(&format!("certified-{kind}"));
        keygen(&key, kind);
        output(
            Command::new("ssh-keygen")
                .args(["-q", "-I", "test-id", "-n", &sshd.user, "-s"])
                .arg(sshd.path("authority"))
                .arg(sshd.path(&format!("certified-{kind}.pub"))),
        );
        let authority = fs::read_to_string(sshd.path("authority.pub")).unwrap();
        fs::write(sshd.path("authorized_keys"), format!("cert-authority {authority}")).unwrap();
        let mut destination = sshd.destination();
        destination.identities = vec![key];
        works(destination.clone()).await;
    }
    let log = fs::read_to_string(sshd.path("log")).unwrap();
    assert!(log.contains("ID test-id"), "{log}");
}

#[tokio::test]
async fn an_agent_lets_in() {
    let sshd = Sshd::start();
    let socket = sshd.path("agent");
    let mut agent = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("agent", || socket.exists()).await;
    for name in ["user", "rsa"] {
        if name == "rsa" {
            keygen(&sshd.path("rsa"), "rsa");
            fs::copy(sshd.path("rsa.pub"), sshd.path("authorized_keys")).unwrap();
        }
        output(
            Command::new("ssh-add")
                .arg("-q")
                .arg(sshd.path(name))
                .env("SSH_AUTH_SOCK", &socket),
        );
        let mut destination = sshd.destination();
        destination.identities.clear();
        destination.agent = Some(socket.clone());
        destination.identities_only = false;
        works(destination.clone()).await;
        // Only keys that are named.
        destination.identities_only = true;
        assert_eq!(fails(destination.clone()).await.1, Phase::Authentication);
        // A public half names one.
        fs::copy(sshd.path(&format!("{name}.pub")), sshd.path("named.pub")).unwrap();
        destination.identities = vec![sshd.path("named")];
        works(destination).await;
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[tokio::test]
async fn a_changed_host_key_is_refused_and_a_new_one_accepted_once() {
    let mut sshd = Sshd::start();
    works(sshd.destination()).await;
    let known = fs::read_to_string(sshd.path("known_hosts")).unwrap();
    let public = fs::read_to_string(sshd.path("host.pub")).unwrap();
    let key: Vec<&str> = public.split(' ').take(2).collect();
    assert_eq!(known, format!("[127.0.0.1]:{} {}\n", sshd.ports[0], key.join(" ")));
    let mut strict = sshd.destination();
    strict.host_keys = HostKeyPolicy::Strict;
    works(strict.clone()).await;

    sshd.restart(true);
    for destination in [sshd.destination(), strict] {
        let (kind, phase, text) = fails(destination).await;
        assert_eq!((kind, phase), (ErrorKind::Identity, Phase::HostKey));
        assert!(text.contains("the key changed"), "{text}");
    }
    assert_eq!(fs::read_to_string(sshd.path("known_hosts")).unwrap(), known);
}

#[tokio::test]
async fn strict_pinned_and_hashed() {
    let sshd = Sshd::start();
    let mut strict = sshd.destination();
    strict.host_keys = HostKeyPolicy::Strict;
    assert_eq!(fails(strict.clone()).await.1, Phase::HostKey);
    assert!(!sshd.path("known_hosts").exists());

    let public = fs::read_to_string(sshd.path("host.pub")).unwrap();
    let mut pinned = sshd.destination();
    pinned.known_hosts.clear();
    pinned.host_keys = HostKeyPolicy::Pinned(public.clone());
    works(pinned.clone()).await;
    pinned.host_keys = HostKeyPolicy::Pinned(fs::read_to_string(sshd.path("user.pub")).unwrap());
    assert_eq!(fails(pinned).await.1, Phase::HostKey);

    fs::write(sshd.path("pin"), format!("crabbox-lease-1 {public}")).unwrap();
    let mut file = sshd.destination();
    file.known_hosts = vec![sshd.path("pin")];
    file.host_key_alias = Some("crabbox-lease-1".into());
    file.host_keys = HostKeyPolicy::PinnedFile;
    works(file).await;

    // Hashed by OpenSSH's own tool.
    fs::write(sshd.path("hashed"), format!("[127.0.0.1]:{} {public}", sshd.ports[0])).unwrap();
    output(
        Command::new("ssh-keygen")
            .args(["-q", "-H", "-f"])
            .arg(sshd.path("hashed")),
    );
    assert!(fs::read_to_string(sshd.path("hashed")).unwrap().starts_with("|1|"));
    strict.known_hosts = vec![sshd.path("hashed")];
    works(strict).await;
}

#[tokio::test]
async fn a_host_certificate_is_trusted_through_its_authority() {
    let sshd = Sshd::start();
    keygen(&sshd.path("authority"), "ed25519");
    output(
        Command::new("ssh-keygen")
            .args(["-q", "-I", "box", "-h", "-n", "127.0.0.1", "-s"])
            .arg(sshd.path("authority"))
            .arg(sshd.path("host.pub")),
    );
    let certificate = sshd.path("host-cert.pub");
    let certified = Sshd::with(
        1,
        &format!(
            "HostCertificate {}\nHostKey {}",
            certificate.display(),
            sshd.path("host").display()
        ),
    );
    let authority = fs::read_to_string(sshd.path("authority.pub")).unwrap();
    let mut destination = certified.destination();
    destination.host_keys = HostKeyPolicy::Strict;
    fs::write(certified.path("known_hosts"), format!("@cert-authority * {authority}")).unwrap();
    works(destination.clone()).await;
    fs::write(
        certified.path("known_hosts"),
        format!("@cert-authority other.test {authority}"),
    )
    .unwrap();
    assert_eq!(fails(destination).await.1, Phase::HostKey);
}

#[tokio::test]
async fn the_next_port_is_tried_before_a_command_starts() {
    let sshd = Sshd::start();
    let closed = free_ports(1)[0];
    let mut destination = sshd.destination();
    destination.ports = vec![closed, sshd.ports[0]];
    let session = works(destination.clone()).await;
    assert_eq!(session.port(), Some(sshd.ports[0]));

    // A port that accepts and says nothing does not hold up the next for long.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    destination.ports = vec![silent.local_addr().unwrap().port(), sshd.ports[0]];
    let start = std::time::Instant::now();
    works(destination.clone()).await;
    assert!(
        start.elapsed() < std::time::Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );

    destination.ports = vec![closed, free_ports(1)[0]];
    let error = Session::connect(destination.clone()).await.unwrap_err();
    let failure = ConnectFailure::of(&error).unwrap();
    assert_eq!((error.kind(), failure.phase()), (ErrorKind::Readiness, Phase::Tcp));
    assert!(error.is_retryable());
    assert_eq!(
        failure.ports(),
        format!("{}:tcp,{}:tcp", destination.ports[0], destination.ports[1])
    );
}

#[tokio::test]
async fn names_that_do_not_exist_and_servers_of_other_kinds() {
    let mut destination = Destination::new("no-such-host.invalid", "me");
    destination.ports = vec![22];
    assert_eq!(fails(destination.clone()).await.1, Phase::Name);

    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    destination.host = "127.0.0.1".into();
    destination.ports = vec![other.local_addr().unwrap().port()];
    destination.connect_timeout = std::time::Duration::from_secs(2);
    let serve = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = other.accept().await {
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
        }
    });
    assert_eq!(fails(destination).await.1, Phase::Handshake);
    serve.abort();
}

#[tokio::test]
async fn proxy_commands_and_jump_hosts() {
    let (outer, inner) = (Sshd::start(), Sshd::start());
    let mut destination = inner.destination();
    let options = format!(
        "-i {} -o BatchMode=yes -o UserKnownHostsFile={} -o StrictHostKeyChecking=accept-new",
        outer.path("user").display(),
        outer.path("known_hosts").display()
    );
    destination.proxy = Some(Proxy::Command(format!(
        "ssh {options} -p {} -W %h:%p {}@127.0.0.1",
        outer.ports[0], outer.user
    )));
    works(destination.clone()).await;

    destination.proxy = Some(Proxy::Jump(Box::new(outer.destination())));
    works(destination.clone()).await;

    destination.proxy = Some(Proxy::Command("echo the gate is shut >&2; false".into()));
    let (_, phase, text) = fails(destination.clone()).await;
    assert_eq!(phase, Phase::Proxy);
    assert!(text.contains("the gate is shut"), "{text}");

    let mut nowhere = outer.destination();
    nowhere.ports = free_ports(1);
    destination.proxy = Some(Proxy::Jump(Box::new(nowhere)));
    assert_eq!(fails(destination).await.1, Phase::Proxy);
}

#[tokio::test]
async fn the_users_own_config_leads_there() {
    let (outer, inner) = (Sshd::start(), Sshd::start());
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    fs::write(
        home.path().join(".ssh/config"),
        format!(
            "Host in\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n  ProxyJump out\n\
             Host out\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n\
             Host *\n  IdentitiesOnly yes\n  UserKnownHostsFile ~/.ssh/kh\n  ForwardAgent yes\n",
            inner.ports[0],
            inner.user,
            inner.path("user").display(),
            outer.ports[0],
            outer.user,
            outer.path("user").display()
        ),
    )
    .unwrap();
    let config = SshConfig::new(home.path(), "nobody", None);
    works(config.destination("in", None, None).unwrap()).await;
    assert_eq!(
        fs::read_to_string(home.path().join(".ssh/kh")).unwrap().lines().count(),
        2
    );
}
