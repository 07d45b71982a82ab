//! Many commands at once.

use std::time::Instant;

use crabbox_core::remote::ExecRequest;
use crabbox_ssh::SshRemote;
use futures_util::future::join_all;

use crate::support::{SOON, Sshd, run, sh, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_commands_at_once() {
    let sshd = Sshd::start();
    let (session, remote) = sshd.remote().await;
    let all = (0..200).map(|number| {
        let remote = remote.clone();
        async move {
            let request = ExecRequest::script(
                "head -c 100000 /dev/zero | tr '\\0' x; exit $1",
                [(number % 100).to_string()],
            );
            let (status, out, _) = run(&remote, request).await.unwrap();
            assert_eq!((status.code, out.len()), (number % 100, 100_000));
        }
    });
    tokio::time::timeout(SOON * 6, join_all(all))
        .await
        .expect("no deadlock");
    assert!(session.connections() <= 4, "{}", session.connections());
}

#[tokio::test]
async fn a_box_that_allows_one_session() {
    let sshd = Sshd::with(1, "MaxSessions 1");
    let mut destination = sshd.destination();
    destination.max_connections = 1;
    let session = crabbox_ssh::Session::connect(destination).await.unwrap();
    let remote = SshRemote::new(session.clone()).unwrap();
    let all = (0..12).map(|_| sh(&remote, "echo one"));
    for out in tokio::time::timeout(SOON, join_all(all)).await.expect("no deadlock") {
        assert_eq!(out, "one\n");
    }
    assert_eq!(session.connections(), 1);
}

#[tokio::test]
async fn a_box_that_allows_none_says_so() {
    let sshd = Sshd::with(1, "MaxSessions 0");
    let (_, remote) = sshd.remote().await;
    let error = tokio::time::timeout(SOON, run(&remote, ExecRequest::new(["true"])))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.message().starts_with("open a channel to"), "{error}");
}

#[tokio::test]
async fn a_second_command_costs_no_handshake() {
    let sshd = Sshd::start();
    let (session, remote) = sshd.remote().await;
    for _ in 0..20 {
        sh(&remote, ":").await;
    }
    let start = Instant::now();
    for _ in 0..20 {
        sh(&remote, ":").await;
    }
    assert_eq!((session.connections(), sshd.connections()), (1, 1));
    let each = start.elapsed() / 20;
    assert!(each < std::time::Duration::from_millis(500), "{each:?}");
}

#[tokio::test]
async fn a_session_that_is_dropped_or_closed_leaves_no_connection() {
    let sshd = Sshd::start();
    let (session, remote) = sshd.remote().await;
    sh(&remote, ":").await;
    session.close().await;
    until("closed", || sshd.connections() == 0).await;
    // Use after closing connects again.
    sh(&remote, ":").await;
    assert_eq!(sshd.connections(), 1);
    drop((session, remote));
    until("dropped", || sshd.connections() == 0).await;
}
