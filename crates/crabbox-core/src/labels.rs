//! Labels on a box: what they say, when they expire, when cleanup may act on them.
//!
//! Keys, units and rules are those of the Go implementation, so both can sweep the same account.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{LeaseId, Slug};
use crate::spec::Target;

/// Longest label value, in characters.
pub const MAX_VALUE_LENGTH: usize = 63;

/// Idle timeout that holds when nobody says otherwise.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Time to live that holds when nobody says otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(90 * 60);

/// How long past its expiry a box that claims to be running or provisioning is left alone.
const STUCK_GRACE: Duration = Duration::from_secs(12 * 60 * 60);

/// Key of the token that identifies one create attempt.
pub const ATTEMPT: &str = "attempt";

/// Key of the directory below the work root that holds the workspace, where it is not named after the lease: a box made from
/// a checkpoint keeps the directory of the lease that the checkpoint was taken of, so that nothing has to be moved.
pub const WORKSPACE: &str = "workspace";

/// Labels of one box, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

/// What the labels of a new box are made from.
#[derive(Clone, Debug)]
pub struct LabelInputs<'a> {
    /// Lease identity.
    pub lease: &'a LeaseId,
    /// Friendly name.
    pub slug: &'a Slug,
    /// Canonical provider name.
    pub provider: &'a str,
    /// Profile name.
    pub profile: &'a str,
    /// Class name.
    pub class: &'a str,
    /// Machine type.
    pub server_type: &'a str,
    /// Operating system.
    pub target: Target,
    /// Name of the lease's SSH key at the provider.
    pub provider_key: &'a str,
    /// Whether automatic cleanup must never touch the box.
    pub keep: bool,
    /// Longest life; zero means that only idleness ends the box.
    pub ttl: Duration,
    /// Longest idle time.
    pub idle_timeout: Duration,
    /// Token of this create attempt.
    pub attempt: &'a str,
}

/// What cleanup does with a box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CleanupDecision {
    /// Destroy it, for this reason.
    Delete(&'static str),
    /// Leave it, for this reason.
    Skip(&'static str),
}

impl Labels {
    /// Labels of a new box.
    pub fn for_lease(inputs: &LabelInputs<'_>, now: Timestamp) -> Self {
        let idle = inputs.idle_timeout.as_secs().to_string();
        let mut labels = Self::default();
        for (key, value) in [
            ("crabbox", "true"),
            ("created_by", "crabbox"),
            ("lease", inputs.lease.as_str()),
            ("slug", inputs.slug.as_str()),
            ("provider", inputs.provider),
            ("profile", inputs.profile),
            ("class", inputs.class),
            ("server_type", inputs.server_type),
            ("target", inputs.target.os.as_str()),
            ("provider_key", inputs.provider_key),
            ("keep", if inputs.keep { "true" } else { "false" }),
            ("state", "leased"),
            ("idle_timeout", &idle),
            ("idle_timeout_secs", &idle),
            (ATTEMPT, inputs.attempt),
        ] {
            labels.set(key, value);
        }
        if let Some(mode) = inputs.target.windows_mode {
            labels.set("windows_mode", mode.as_str());
        }
        labels.set("ttl_secs", &inputs.ttl.as_secs().to_string());
        labels.set("created_at", &seconds(now));
        labels.touch(now, None);
        labels
    }

    /// Sets a label; the value is sanitised unless the key holds a path.
    pub fn set(&mut self, key: &str, value: &str) {
        let value = if key == "work_root" {
            value.to_owned()
        } else {
            sanitize_value(value)
        };
        self.0.insert(key.to_owned(), value);
    }

    /// Takes labels as a provider reported them, unchanged.
    pub fn from_observed(labels: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(labels.into_iter().collect())
    }

    /// The value of a label; an empty value counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Removes a label.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The underlying map.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether automatic cleanup must never touch the box.
    pub fn keep(&self) -> bool {
        self.get("keep") == Some("true")
    }

    /// State of the box, such as `leased`, `ready` or `running`.
    pub fn state(&self) -> Option<&str> {
        self.get("state")
    }

    /// When the box was created.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.time("created_at")
    }

    /// When the box was last used.
    pub fn last_touched_at(&self) -> Option<Timestamp> {
        self.time("last_touched_at")
    }

    /// When the box expires; the legacy `ttl` label is understood.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.time("expires_at").or_else(|| self.time("ttl"))
    }

    /// Longest idle time.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.secs("idle_timeout_secs").or_else(|| self.secs("idle_timeout"))
    }

    /// Longest life; zero means that only idleness ends the box.
    pub fn ttl(&self) -> Option<Duration> {
        self.secs("ttl_secs")
    }

    /// Records use at `now` and moves the expiry: `min(created + ttl, touched + idle)`. A stored idle timeout stays unless
    /// another is given.
    pub fn touch(&mut self, now: Timestamp, idle_timeout: Option<Duration>) {
        let idle = idle_timeout
            .or_else(|| self.idle_timeout())
            .unwrap_or(DEFAULT_IDLE_TIMEOUT);
        let ttl = self.ttl().unwrap_or(DEFAULT_TTL);
        let created = self.created_at().unwrap_or(now);
        let mut expires = later(now, idle);
        if !ttl.is_zero() {
            expires = expires.min(later(created, ttl));
        }
        let idle = idle.as_secs().to_string();
        self.set("idle_timeout", &idle);
        self.set("idle_timeout_secs", &idle);
        self.set("last_touched_at", &seconds(now));
        self.set("expires_at", &seconds(expires));
    }

    /// Decides what cleanup does, from labels and time alone.
    pub fn cleanup_decision(&self, now: Timestamp) -> CleanupDecision {
        if self.is_empty() {
            return CleanupDecision::Skip("missing labels");
        }
        if self.keep() {
            return CleanupDecision::Skip("keep=true");
        }
        let expires = self.expires_at();
        let expired = |grace: Duration| expires.is_some_and(|at| later(at, grace) < now);
        match self.state().unwrap_or_default() {
            "running" | "provisioning" if expired(STUCK_GRACE) => CleanupDecision::Delete("stale active state"),
            "running" | "provisioning" => CleanupDecision::Skip("active state"),
            "failed" | "released" | "expired" => CleanupDecision::Delete("terminal state"),
            _ if expires.is_none() => CleanupDecision::Skip("missing expires_at"),
            _ if expired(Duration::ZERO) => CleanupDecision::Delete("expired"),
            _ => CleanupDecision::Skip("not expired"),
        }
    }

    fn time(&self, key: &str) -> Option<Timestamp> {
        let text = self.get(key)?;
        match text.parse::<i64>() {
            Ok(seconds) => Timestamp::from_second(seconds).ok(),
            Err(_) => text.parse().ok(),
        }
    }

    fn secs(&self, key: &str) -> Option<Duration> {
        self.get(key)?.parse().ok().map(Duration::from_secs)
    }
}

/// Keeps `[A-Za-z0-9_.-]`, turns everything else into `_`, cuts at 63 characters, trims `_.-`, never returns nothing.
pub fn sanitize_value(value: &str) -> String {
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') {
            c
        } else {
            '_'
        }
    };
    let cut: String = value.chars().map(keep).take(MAX_VALUE_LENGTH).collect();
    match cut.trim_matches(['_', '.', '-']) {
        "" => "unknown".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

fn seconds(time: Timestamp) -> String {
    time.as_second().to_string()
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sample(keep: bool, ttl: u64, idle: u64) -> Labels {
        let lease: LeaseId = "cbx_abcdef123456".parse().unwrap();
        let inputs = LabelInputs {
            lease: &lease,
            slug: &Slug::for_lease(&lease),
            provider: "local",
            profile: "default",
            class: "beast",
            server_type: "",
            target: Target::LINUX,
            provider_key: "crabbox-cbx-abcdef123456",
            keep,
            ttl: Duration::from_secs(ttl),
            idle_timeout: Duration::from_secs(idle),
            attempt: "cat_1",
        };
        Labels::for_lease(&inputs, at(1_000))
    }

    #[test]
    fn expiry_is_the_earlier_of_life_and_idleness() {
        let mut labels = sample(false, 100, 30);
        assert_eq!(labels.expires_at(), Some(at(1_030)));
        labels.touch(at(1_090), None);
        assert_eq!(labels.expires_at(), Some(at(1_100)));
        labels.touch(at(1_095), Some(Duration::from_secs(1)));
        assert_eq!(labels.expires_at(), Some(at(1_096)));
        assert_eq!(labels.idle_timeout(), Some(Duration::from_secs(1)));
        let mut forever = sample(false, 0, 30);
        forever.touch(at(9_000), None);
        assert_eq!(forever.expires_at(), Some(at(9_030)));
    }

    #[test]
    fn cleanup_follows_the_decision_table() {
        let decide = |state: &str, expires: Option<&str>, keep: bool, now: i64| {
            let mut labels = sample(keep, 100, 100);
            labels.set("state", state);
            labels.remove("expires_at");
            if let Some(text) = expires {
                labels.set("expires_at", text);
            }
            labels.cleanup_decision(at(now))
        };
        use CleanupDecision::{Delete, Skip};
        assert_eq!(Labels::default().cleanup_decision(at(0)), Skip("missing labels"));
        assert_eq!(decide("failed", Some("10"), true, 99), Skip("keep=true"));
        assert_eq!(decide("running", Some("10"), false, 99), Skip("active state"));
        assert_eq!(
            decide("running", Some("10"), false, 10 + 12 * 3600 + 1),
            Delete("stale active state")
        );
        assert_eq!(decide("ready", Some("10"), false, 11), Delete("expired"));
        assert_eq!(decide("ready", Some("10"), false, 10), Skip("not expired"));
        assert_eq!(decide("released", None, false, 0), Delete("terminal state"));
        assert_eq!(decide("odd", None, false, 0), Skip("missing expires_at"));
        assert_eq!(
            decide("ready", Some("1970-01-01T00.00.10Z"), false, 99),
            Skip("missing expires_at")
        );
    }

    #[test]
    fn values_are_sanitised() {
        assert_eq!(sanitize_value("a b/c"), "a_b_c");
        assert_eq!(sanitize_value("--x--"), "x");
        assert_eq!(sanitize_value(""), "unknown");
        assert_eq!(sanitize_value(&"x".repeat(99)).len(), 63);
        let mut labels = Labels::default();
        labels.set("work_root", "/work/crabbox");
        assert_eq!(labels.get("work_root"), Some("/work/crabbox"));
    }
}
