//! Waiting for a box.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use crabbox_core::ErrorKind;
use crabbox_core::runtime::Clock;
use crabbox_ssh::readiness::{PortStatus, Wait, look, transport_probe, wait};
use jiff::Timestamp;

use crate::support::{Said, Sshd, free_ports, keygen};

const QUICK: Duration = Duration::from_secs(3);

type Step<'a> = Box<dyn FnMut(usize) + Send + 'a>;

/// Time that passes only while somebody sleeps, and what happens meanwhile.
struct Fake<'a> {
    slept: Mutex<Vec<Duration>>,
    step: Mutex<Step<'a>>,
}

impl<'a> Fake<'a> {
    fn new(step: impl FnMut(usize) + Send + 'a) -> Self {
        Self {
            slept: Mutex::default(),
            step: Mutex::new(Box::new(step)),
        }
    }
}

#[async_trait]
impl Clock for Fake<'_> {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        self.slept.lock().unwrap().iter().sum()
    }

    async fn sleep(&self, duration: Duration) {
        let turn = {
            let mut slept = self.slept.lock().unwrap();
            slept.push(duration);
            slept.len()
        };
        (self.step.lock().unwrap())(turn);
    }
}

fn quick(phase: &str) -> Wait {
    let mut wait = Wait::new(phase);
    wait.connect_timeout = QUICK;
    wait
}

#[tokio::test]
async fn a_box_becomes_ready_step_by_step() {
    let mut sshd = Sshd::start();
    let marker = sshd.path("ready");
    let mut destination = sshd.destination();
    let closed = free_ports(1)[0];
    destination.ports.insert(0, closed);
    let port = sshd.ports[0];
    std::fs::rename(sshd.path("authorized_keys"), sshd.path("later")).unwrap();
    sshd.stop();
    let (later, keys) = (sshd.path("later"), sshd.path("authorized_keys"));
    let said = Said::default();
    let session = {
        let marker = marker.clone();
        let clock = Fake::new(|turn| match turn {
            2 => sshd.restart(false),
            4 => std::fs::rename(&later, &keys).unwrap(),
            6 => std::fs::write(&marker, "").unwrap(),
            _ => {}
        });
        let mut options = quick("bootstrap");
        options.check = Some(format!("test -e {}", marker.display()));
        let session = wait(&destination, &options, &clock, &said).await.unwrap();
        assert_eq!(
            clock
                .slept
                .lock()
                .unwrap()
                .iter()
                .map(Duration::as_secs)
                .collect::<Vec<_>>(),
            [1, 2, 4, 8, 10, 10]
        );
        session
    };
    assert_eq!(session.port(), Some(port));
    let lines: Vec<String> = said
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|line| line.replace(&closed.to_string(), "C").replace(&port.to_string(), "P"))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    waiting for 127.0.0.1:C bootstrap... elapsed=0s remaining=1200s ports=C:closed,P:closed
    waiting for 127.0.0.1:C bootstrap... elapsed=1s remaining=1199s ports=C:closed,P:closed
    waiting for 127.0.0.1:C bootstrap ssh-auth... elapsed=3s remaining=1197s ports=C:closed,P:tcp
    waiting for 127.0.0.1:C bootstrap ssh-auth... elapsed=7s remaining=1193s ports=C:closed,P:tcp
    waiting for 127.0.0.1:C bootstrap ready-check... elapsed=15s remaining=1185s ports=C:closed,P:auth
    waiting for 127.0.0.1:C bootstrap ready-check... elapsed=25s remaining=1175s ports=C:closed,P:auth
    using ssh port P for 127.0.0.1 (configured C not ready)
    ");
}

#[tokio::test]
async fn the_budget_ends() {
    let mut destination = crabbox_ssh::Destination::new("127.0.0.1", "me");
    destination.ports = free_ports(1);
    let mut options = quick("before sync");
    options.budget = Duration::from_secs(60);
    let clock = Fake::new(|_| {});
    let error = wait(&destination, &options, &clock, &Said::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Readiness);
    assert_eq!(
        error.message(),
        format!(
            "timed out waiting for SSH on 127.0.0.1 during before sync ports={}:closed; \
             next_action=retry with --full-resync, then take a fresh lease",
            destination.ports[0]
        )
    );
    assert_eq!(clock.monotonic(), Duration::from_secs(60));
    options.cancel.cancel();
    assert!(
        wait(&destination, &options, &clock, &Said::default())
            .await
            .unwrap_err()
            .is_cancelled()
    );
}

#[tokio::test]
async fn a_wrong_host_key_ends_the_wait_at_once() {
    let sshd = Sshd::start();
    keygen(&sshd.path("other"), "ed25519");
    let mut destination = sshd.destination();
    destination.host_keys =
        crabbox_ssh::HostKeyPolicy::Pinned(std::fs::read_to_string(sshd.path("other.pub")).unwrap());
    let error = wait(
        &destination,
        &quick("bootstrap"),
        &Fake::new(|_| panic!("slept")),
        &Said::default(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Identity);
}

#[tokio::test]
async fn one_look() {
    let sshd = Sshd::start();
    let seen = look(&sshd.destination(), QUICK, None).await.unwrap();
    assert_eq!(seen.best, PortStatus::Ready);
    assert!(seen.session.is_some());
    let seen = look(&sshd.destination(), QUICK, Some("exit 1")).await.unwrap();
    assert_eq!(seen.ports, [(sshd.ports[0], PortStatus::Auth)]);
    assert_eq!(
        transport_probe(&sshd.destination(), QUICK).await.unwrap(),
        sshd.ports[0]
    );
}
