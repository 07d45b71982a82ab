//! The system's client as a transport, and its understanding of what we write.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crabbox_core::Remote as _;
use crabbox_core::remote::{ExecRequest, Stdin, Upload};
use crabbox_ssh::{ConnectFailure, Destination, OpenSsh, OpenSshOptions, SshRemote};
use tokio_util::sync::CancellationToken;

use crate::support::{Count, Sshd, end, free_ports, output, pid_of, run, running, sh, until};

fn options(directory: &Path) -> OpenSshOptions {
    let mut options = OpenSshOptions::default();
    options.control_directory = directory.to_owned();
    options
}

async fn client(destination: Destination, sshd: &Sshd) -> (OpenSsh, SshRemote) {
    let client = OpenSsh::connect(destination, options(sshd.directory.path()))
        .await
        .unwrap();
    (client.clone(), SshRemote::openssh(client).unwrap())
}

#[tokio::test]
async fn the_same_behaviour() {
    let sshd = Sshd::start();
    let mut destination = sshd.destination();
    destination.ports.insert(0, free_ports(1)[0]);
    for multiplex in [true, false] {
        destination.multiplex = multiplex;
        let (client, remote) = client(destination.clone(), &sshd).await;
        assert_eq!(client.port(), sshd.ports[0]);
        for code in [0, 1, 127, 254, 255] {
            let script = format!("echo out; echo err >&2; exit {code}");
            let (status, out, err) = run(&remote, ExecRequest::script::<&str>(&script, [])).await.unwrap();
            assert_eq!((status.code, out.as_str(), err.as_str()), (code, "out\n", "err\n"));
        }
        let size = 8 << 20;
        let stream = Stdin::Stream(Box::pin(tokio::io::AsyncReadExt::take(tokio::io::repeat(3), size)));
        let mut count = Count::default();
        assert!(
            remote
                .exec(ExecRequest::new(["cat"]).with_stdin(stream), &mut count)
                .await
                .unwrap()
                .success()
        );
        assert_eq!((count.bytes, count.sum), (size, size * 3));
        let file = format!("{}/up", sshd.directory.path().display()).parse().unwrap();
        remote
            .upload(&file, Upload::from_bytes("content", 0o600))
            .await
            .unwrap();
        let mut back = Vec::new();
        remote.download(&file, &mut back).await.unwrap();
        assert_eq!(back, b"content");
        let error = run(&remote, ExecRequest::new(["true"]).in_dir("/no/where".parse().unwrap()))
            .await
            .unwrap_err();
        assert!(error.message().starts_with("no such directory"), "{error}");
        client.close().await.unwrap();
    }
    assert_eq!(
        running(&format!("{}/crabbox-ssh-", sshd.directory.path().display())),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn cancelling_and_losing() {
    let sshd = Sshd::start();
    for multiplex in [true, false] {
        let mut destination = sshd.destination();
        destination.multiplex = multiplex;
        let (client, remote) = client(destination, &sshd).await;
        let remote = remote.with_grace(Duration::from_secs(1));
        let cancel = CancellationToken::new();
        let request =
            ExecRequest::script::<&str>("sleep 8101 & setsid sleep 8102 & sleep 8103", []).with_cancel(cancel.clone());
        let ending = async {
            until("started", || {
                running("sleep 810")
                    .iter()
                    .filter(|line| line.starts_with("sleep"))
                    .count()
                    == 3
            })
            .await;
            cancel.cancel();
        };
        let (result, ()) = tokio::join!(run(&remote, request), ending);
        let error = result.unwrap_err();
        assert!(error.is_cancelled() && !error.facts().outcome_unknown, "{error}");
        assert_eq!(running("sleep 810"), Vec::<String>::new());

        let killing = async {
            until("started", || pid_of("sleep 8200").is_some()).await;
            sshd.kill_connections();
        };
        let (result, ()) = tokio::join!(run(&remote, ExecRequest::new(["sleep", "8200"])), killing);
        assert!(result.unwrap_err().facts().outcome_unknown);
        client.close().await.unwrap();
        end("sleep 8200").await;
    }
}

#[tokio::test]
async fn failures_are_told_and_nothing_was_started() {
    let sshd = Sshd::start();
    let mut destination = sshd.destination();
    destination.identities = vec![sshd.path("host")];
    let error = OpenSsh::connect(destination.clone(), options(sshd.directory.path()))
        .await
        .unwrap_err();
    assert!(ConnectFailure::of(&error).is_some());
    assert!(error.to_string().contains("Permission denied"), "{error}");
    let mut none = OpenSshOptions::default();
    none.program = "/no/such/ssh".into();
    let error = OpenSsh::connect(destination, none).await.unwrap_err();
    assert_eq!(error.kind(), crabbox_core::ErrorKind::Prerequisite);
}

#[tokio::test]
async fn the_systems_client_trusts_what_we_learned_and_we_what_it_learned() {
    let sshd = Sshd::start();
    sshd.remote().await;
    let port = sshd.ports[0].to_string();
    let system = |known: &Path, strict: &str| {
        let mut command = Command::new("ssh");
        command.args([
            "-n",
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-p",
            &port,
        ]);
        command.arg("-i").arg(sshd.path("user"));
        command.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        command.args([
            "-o",
            &format!("StrictHostKeyChecking={strict}"),
            &format!("{}@127.0.0.1", sshd.user),
            "echo in",
        ]);
        output(&mut command)
    };
    assert_eq!(system(&sshd.path("known_hosts"), "yes"), "in");
    assert_eq!(system(&sshd.path("theirs"), "accept-new"), "in");
    let mut destination = sshd.destination();
    destination.known_hosts = vec![sshd.path("theirs")];
    destination.host_keys = crabbox_ssh::HostKeyPolicy::Strict;
    let session = crabbox_ssh::Session::connect(destination).await.unwrap();
    assert_eq!(sh(&SshRemote::new(session).unwrap(), "echo in").await, "in\n");
}
