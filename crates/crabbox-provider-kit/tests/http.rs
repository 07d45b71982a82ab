//! HTTP over real sockets on this machine.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_core::runtime::{Environment, HttpTransport as _};
use crabbox_core::{Error, ErrorKind, Result};
use crabbox_provider_kit::{Http, Timeouts};
use http::{Request, Response};

fn timeouts() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(5),
        read: Duration::from_millis(500),
        total: Duration::from_secs(5),
    }
}

fn transport() -> Http {
    Http::new(&Environment::default(), timeouts()).unwrap()
}

/// Serves one connection and hands over what was received.
fn serve(answer: impl FnOnce(TcpStream) + Send + 'static) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        let mut chunk = [0; 4096];
        while !received.windows(4).any(|window| window == b"\r\n\r\n") {
            let length = stream.read(&mut chunk).unwrap();
            received.extend_from_slice(&chunk[..length]);
        }
        // Not every test looks at what was received.
        let _unread = sender.send(String::from_utf8(received).unwrap());
        answer(stream);
    });
    (port, receiver)
}

fn say(answer: &'static str) -> impl FnOnce(TcpStream) + Send {
    move |mut stream| {
        // The other side may hang up early; that is what some of these tests are about.
        let _sent = stream.write_all(answer.as_bytes());
        let _closed = stream.shutdown(Shutdown::Both);
    }
}

async fn send(method: &str, port: u16, limit: usize) -> Result<Response<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://127.0.0.1:{port}/v1/servers?token=hunter2"))
        .header("authorization", "Bearer hunter2")
        .body(Bytes::new())
        .unwrap();
    transport().send(request, limit).await
}

fn assert_hides_secrets(error: &Error) {
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn answers_come_back_whole() {
    let (port, received) = serve(say(
        "HTTP/1.1 201 Created\r\nx-acme: yes\r\ncontent-length: 5\r\n\r\nhello",
    ));
    let answer = send("POST", port, 5).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (201, &b"hello"[..]));
    assert_eq!(answer.headers()["x-acme"], "yes");
    let request = received.recv().unwrap();
    assert!(
        request.starts_with("POST /v1/servers?token=hunter2 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("user-agent: crabbox/"), "{request}");
}

#[tokio::test]
async fn redirects_are_answers() {
    let (port, _) = serve(say(
        "HTTP/1.1 302 Found\r\nlocation: http://evil.test/\r\ncontent-length: 0\r\n\r\n",
    ));
    assert_eq!(send("GET", port, 10).await.unwrap().status(), 302);
}

#[tokio::test]
async fn long_answers_are_cut_off() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n123456",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n123\r\n3\r\n456\r\n0\r\n\r\n",
    ] {
        let (port, _) = serve(say(answer));
        let error = send("GET", port, 5).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("answer to GET http://127.0.0.1:{port}/v1/servers is longer than 5 bytes")
        );
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn nothing_sent_is_retryable() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let error = send("POST", port, 5).await.unwrap_err();
    assert!(error.is_retryable() && !error.facts().outcome_unknown, "{error:?}");
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot connect for POST http://127.0.0.1:{port}/v1/servers: "))
    );
    assert_hides_secrets(&error);
}

#[tokio::test]
async fn lost_answers_are_unknown_for_calls_that_change_something() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n123"] {
        let (port, _) = serve(say(answer));
        let error = send("POST", port, 100).await.unwrap_err();
        assert!(error.facts().outcome_unknown && !error.is_retryable(), "{error:?}");
        assert_hides_secrets(&error);
        let (port, _) = serve(say(answer));
        let error = send("GET", port, 100).await.unwrap_err();
        assert!(error.is_retryable() && !error.facts().outcome_unknown, "{error:?}");
        assert_hides_secrets(&error);
    }
}

#[tokio::test]
async fn silence_ends_in_time() {
    let (release, held) = mpsc::channel::<()>();
    let (port, _) = serve(move |stream| {
        // Ends when the test does.
        let _ended = held.recv();
        drop(stream);
    });
    let error = send("DELETE", port, 100).await.unwrap_err();
    assert!(error.facts().outcome_unknown, "{error:?}");
    assert!(error.to_string().starts_with("no answer in time to DELETE "), "{error}");
    drop(release);
}

#[tokio::test]
async fn proxies_come_from_the_given_environment() {
    let (port, received) = serve(say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
    let environment = Environment::new([("HTTP_PROXY", format!("http://127.0.0.1:{port}"))]);
    let http = Http::new(&environment, timeouts()).unwrap();
    let request = Request::builder().uri("http://acme.test/x").body(Bytes::new()).unwrap();
    assert_eq!(http.send(request, 10).await.unwrap().status(), 200);
    assert!(
        received
            .recv()
            .unwrap()
            .starts_with("GET http://acme.test/x HTTP/1.1\r\n")
    );
    let bad = Environment::new([("https_proxy", "http://user:hunter2@[bad")]);
    let error = Http::new(&bad, timeouts()).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Usage, "not a usable proxy address: `HTTPS_PROXY`")
    );
}
