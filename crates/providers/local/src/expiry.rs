//! When a box ends: at the end of its life, or when nobody has used it for long enough.

use std::time::Duration;

use crabbox_core::labels::{DEFAULT_IDLE_TIMEOUT, DEFAULT_TTL, Labels};
use jiff::Timestamp;

/// The times of one box.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    created_at: Timestamp,
    life: Option<Duration>,
    idle: Duration,
    /// Last touch by a client, as the labels say.
    touched_at: Timestamp,
    /// Last moment at which a command ran.
    active_at: Timestamp,
    /// Commands that run now.
    active: u32,
}

impl Expiry {
    /// The times in some labels. A box without labels has the default times: none lives for ever.
    pub(crate) fn new(labels: &Labels, created_at: Timestamp) -> Self {
        let mut expiry = Self {
            created_at,
            life: Some(DEFAULT_TTL),
            idle: DEFAULT_IDLE_TIMEOUT,
            touched_at: created_at,
            active_at: created_at,
            active: 0,
        };
        expiry.read(labels, created_at);
        expiry
    }

    /// Takes the times of changed labels.
    pub(crate) fn read(&mut self, labels: &Labels, created_at: Timestamp) {
        self.created_at = labels.created_at().unwrap_or(created_at);
        self.life = Some(labels.ttl().unwrap_or(DEFAULT_TTL)).filter(|life| !life.is_zero());
        self.idle = labels.idle_timeout().unwrap_or(DEFAULT_IDLE_TIMEOUT);
        self.touched_at = labels.last_touched_at().unwrap_or(created_at);
    }

    /// Takes a message about running commands, `A` and four bytes; whether it was one.
    pub(crate) fn note(&mut self, message: &[u8]) -> bool {
        let &[b'A', a, b, c, d] = message else { return false };
        self.active = u32::from_le_bytes([a, b, c, d]);
        self.active_at = Timestamp::now();
        true
    }

    /// Time left; zero when it is over.
    pub(crate) fn remaining(&self, now: Timestamp) -> Duration {
        let used_at = if self.active > 0 {
            now
        } else {
            self.active_at.max(self.touched_at)
        };
        let idle_end = later(used_at, self.idle);
        let end = match self.life {
            Some(life) => idle_end.min(later(self.created_at, life)),
            None => idle_end,
        };
        Duration::try_from(end.duration_since(now)).unwrap_or_default()
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ttl: u64, idle: u64, touched: i64) -> Labels {
        let mut labels = Labels::default();
        labels.set("created_at", "1000");
        labels.set("last_touched_at", &touched.to_string());
        labels.set("ttl_secs", &ttl.to_string());
        labels.set("idle_timeout_secs", &idle.to_string());
        labels
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn left(expiry: &Expiry, now: i64) -> u64 {
        expiry.remaining(at(now)).as_secs()
    }

    #[test]
    fn the_earlier_of_life_and_idleness_ends_it() {
        let mut expiry = Expiry::new(&labels(100, 30, 1000), at(1000));
        assert_eq!(left(&expiry, 1010), 20);
        expiry.read(&labels(100, 30, 1090), at(1000));
        assert_eq!(left(&expiry, 1090), 10);
        assert_eq!(left(&expiry, 1200), 0);
    }

    #[test]
    fn a_running_command_is_use_but_does_not_prolong_life() {
        let mut expiry = Expiry::new(&labels(100, 30, 1000), at(1000));
        assert!(expiry.note(&[b'A', 1, 0, 0, 0]));
        assert!(!expiry.note(b"Y"));
        expiry.active_at = at(1000);
        assert_eq!(left(&expiry, 1060), 30);
        assert_eq!(left(&expiry, 1090), 10);
        assert_eq!(left(&expiry, 1100), 0);
    }

    #[test]
    fn no_box_lives_for_ever_without_labels() {
        let expiry = Expiry::new(&Labels::default(), at(1000));
        assert_eq!(expiry.remaining(at(1000)), DEFAULT_IDLE_TIMEOUT);
        let forever = Expiry::new(&labels(0, 30, 1000), at(1000));
        assert_eq!(left(&forever, 1010), 20);
    }
}
