//! Ports and sockets.

use std::time::Duration;

use crabbox_ssh::{ForwardListener, ForwardTarget};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::support::{SOON, Sshd, free_ports, sh};

/// Answers every connection with what it sent, backwards.
async fn reverse<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: S) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let text: String = text.chars().rev().collect();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
}

async fn ask<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(mut stream: S, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn every_pair_of_ends() {
    let sshd = Sshd::start();
    let (session, remote) = sshd.remote().await;
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    let path = sshd.path("service");
    let unix = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Ok((stream, _)) = tcp.accept() => { tokio::spawn(reverse(stream)); }
                Ok((stream, _)) = unix.accept() => { tokio::spawn(reverse(stream)); }
            }
        }
    });
    let any = || ForwardListener::Tcp("127.0.0.1:0".parse().unwrap());
    let targets = [
        ForwardTarget::Tcp("127.0.0.1".into(), port),
        ForwardTarget::Unix(path.to_str().unwrap().into()),
    ];
    for target in targets {
        let forward = session.forward(any(), target.clone()).await.unwrap();
        let address = forward.address().unwrap();
        for text in ["abc", "", &"xy".repeat(300_000)] {
            let expected: String = text.chars().rev().collect();
            assert_eq!(ask(TcpStream::connect(address).await.unwrap(), text).await, expected);
        }
        forward.close().await;
        assert!(TcpStream::connect(address).await.is_err());

        let socket = sshd.path("local");
        let forward = session
            .forward(ForwardListener::Unix(socket.clone()), target)
            .await
            .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(ask(UnixStream::connect(&socket).await.unwrap(), "abc").await, "cba");
        drop(forward);
        assert!(!socket.exists());
    }
    assert_eq!(sh(&remote, "echo on").await, "on\n");
}

#[tokio::test]
async fn a_target_that_is_not_there_closes_and_a_taken_port_is_explained() {
    let sshd = Sshd::start();
    let (session, _) = sshd.remote().await;
    let target = ForwardTarget::Tcp("127.0.0.1".into(), free_ports(1)[0]);
    let forward = session
        .forward(ForwardListener::Tcp("127.0.0.1:0".parse().unwrap()), target.clone())
        .await
        .unwrap();
    assert_eq!(
        ask(TcpStream::connect(forward.address().unwrap()).await.unwrap(), "").await,
        ""
    );
    let taken = forward.address().unwrap();
    let error = session.forward(ForwardListener::Tcp(taken), target).await.unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("listen on {taken}: ")),
        "{error}"
    );
}

#[tokio::test]
async fn a_program_that_does_not_read_holds_up_nobody_else() {
    let sshd = Sshd::start();
    let (session, remote) = sshd.remote().await;
    let flood = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = flood.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((mut stream, _)) = flood.accept().await {
            let endless = std::mem::take(&mut first);
            tokio::spawn(async move {
                while endless && stream.write_all(&[0; 65536]).await.is_ok() {}
                let _ = stream.write_all(b"short").await;
            });
        }
    });
    let target = ForwardTarget::Tcp("127.0.0.1".into(), port);
    let forward = session
        .forward(ForwardListener::Tcp("127.0.0.1:0".parse().unwrap()), target)
        .await
        .unwrap();
    let _unread = TcpStream::connect(forward.address().unwrap()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sh(&remote, "echo on").await, "on\n");
    assert_eq!(
        ask(TcpStream::connect(forward.address().unwrap()).await.unwrap(), "").await,
        "short"
    );
}
