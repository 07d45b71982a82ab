//! The terminal of this process connected to one on a box.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use crabbox_ssh::{Destination, Session, attach};

use crate::support::{Sshd, output};

const WHERE: &str = "CRABBOX_TEST_TERMINAL";

/// Runs in a terminal of its own, started by the test below.
#[tokio::test]
#[ignore = "run by another test, in a terminal"]
async fn helper() {
    let text = std::env::var(WHERE).unwrap();
    let words: Vec<&str> = text.split(' ').collect();
    let mut destination = Destination::new("127.0.0.1", words[0]);
    destination.ports = vec![words[1].parse().unwrap()];
    destination.identities = vec![words[2].into()];
    destination.known_hosts = vec![words[3].into()];
    let session = Session::connect(destination).await.unwrap();
    let script = "stty -isig; echo ready; read x; echo got-$x-; exit 5";
    let ended = attach(&session, Some(script), "vt100").await;
    assert_eq!(ended.unwrap().code, 5);
    // The local terminal is as it was: a newline is not raw any more.
    let modes = output(Command::new("stty").arg("-a").stdin(Stdio::inherit()));
    for mode in ["icanon", "opost", "echo", "isig"] {
        assert!(modes.split_whitespace().any(|word| word == mode), "{mode}: {modes}");
    }
    println!("restored");
}

#[tokio::test]
async fn keys_go_there_and_the_local_terminal_is_restored() {
    let sshd = Sshd::start();
    let program = std::env::current_exe().unwrap();
    let line = format!("{} --ignored --exact terminal::helper --nocapture", program.display());
    let place = format!(
        "{} {} {} {}",
        sshd.user,
        sshd.ports[0],
        sshd.path("user").display(),
        sshd.path("known_hosts").display()
    );
    // `script` gives its child a terminal.
    let mut child = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env(WHERE, place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut screen = BufReader::new(child.stdout.take().unwrap());
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        while screen.read_line(&mut text).unwrap() > 0 {
            if text.trim_end().ends_with("ready") {
                // A key that would end a program whose own terminal is not raw.
                keys.write_all(b"\x03hello\r").unwrap();
                break;
            }
        }
        screen.read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        text
    })
    .await
    .unwrap();
    if output(Command::new("id").arg("-u")) == "0" {
        assert!(text.contains("got-\x03hello-") && text.contains("restored"), "{text}");
    } else {
        // A server that is not the superuser's cannot hand out terminals.
        assert!(text.contains("the box refuses a terminal"), "{text}");
    }
}
