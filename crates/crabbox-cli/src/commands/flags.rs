//! Flags that several commands share.

use std::time::Duration;

use clap::Args;
use crabbox_core::{Error, Result, duration};

use crate::output::ErrorFormat;

/// Headings under which help groups flags.
pub(crate) mod heading {
    pub(crate) const LEASE: &str = "Lease";
    pub(crate) const RUN: &str = "Run";
    pub(crate) const SYNC: &str = "Sync";
    pub(crate) const ENVIRONMENT: &str = "Environment";
    pub(crate) const RESULTS: &str = "Results";
    pub(crate) const TARGET: &str = "Target";
    pub(crate) const OUTPUT: &str = "Output";
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::OUTPUT)]
pub(crate) struct GlobalFlags {
    /// Print only data, warnings and errors.
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// Form of the error that ends a command.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) error_format: ErrorFormat,
}

/// Which provider, and which system on its boxes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::TARGET)]
pub(crate) struct TargetFlags {
    /// Provider of the box; `crabbox providers` lists them.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Operating system of the box: linux, macos or windows.
    #[arg(long, value_name = "OS")]
    target: Option<String>,
    /// How a Windows box is driven: normal or wsl2.
    #[arg(long, value_name = "MODE")]
    windows_mode: Option<String>,
}

/// Only the provider.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::TARGET)]
pub(crate) struct ProviderFlag {
    /// Provider of the box; `crabbox providers` lists them.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

/// What a new box is like.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = heading::LEASE)]
pub(crate) struct LeaseFlags {
    /// Profile of the config: demands, environment, presets.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Size class of the box, such as standard or beast.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Exact machine type of the provider, instead of a class.
    #[arg(long = "type", value_name = "TYPE")]
    server_type: Option<String>,
    /// Processor architecture: amd64 or arm64.
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Portable Linux image, such as ubuntu:24.04.
    #[arg(long, value_name = "IMAGE")]
    os: Option<String>,
    /// Price model.
    #[arg(long, value_name = "MARKET", value_parser = ["spot", "on-demand"])]
    market: Option<String>,
    /// Longest life of the box, such as 90m.
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    /// Longest idle time of the box, such as 30m.
    #[arg(long, value_name = "DURATION")]
    idle_timeout: Option<String>,
    /// Friendly name of a new lease.
    #[arg(long, value_name = "SLUG")]
    pub(crate) slug: Option<String>,
    #[command(flatten)]
    target: TargetFlags,
}

impl LeaseFlags {
    /// The idle timeout that was asked for.
    pub(crate) fn idle_timeout(&self) -> Result<Option<Duration>> {
        let given = self.idle_timeout.as_deref();
        given.map(crabbox_core::duration::parse).transpose()
    }
}

/// Data for programs.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = heading::OUTPUT)]
pub(crate) struct JsonFlag {
    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// An existing lease, named by flag or as a word.
#[derive(Args, Clone, Debug)]
pub(crate) struct LeaseName {
    /// Lease id or slug.
    #[arg(value_name = "LEASE")]
    lease: Option<String>,
    /// Lease id or slug, instead of the word.
    #[arg(long, value_name = "LEASE", help_heading = heading::LEASE)]
    id: Option<String>,
}

impl LeaseName {
    /// The one lease that was named.
    pub(crate) fn required(&self) -> Result<String> {
        one_of("lease", self.id.as_deref(), self.lease.as_deref())?.ok_or_else(|| {
            Error::usage("missing lease: `--id`").with_hint("name a lease by id or slug; `crabbox list` shows them")
        })
    }
}

/// An existing run, named by flag or as a word.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunName {
    /// Run id.
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Run id, instead of the word.
    #[arg(long, value_name = "RUN")]
    id: Option<String>,
}

impl RunName {
    /// The one run that was named.
    pub(crate) fn required(&self) -> Result<crabbox_core::RunId> {
        one_of("run", self.id.as_deref(), self.run.as_deref())?
            .ok_or_else(|| {
                Error::usage("missing run: `--id`").with_hint("name a run by its id; `crabbox history` shows them")
            })?
            .parse()
    }
}

/// Takes what was given once, as a flag or as a word.
pub(crate) fn one_of(what: &str, flag: Option<&str>, word: Option<&str>) -> Result<Option<String>> {
    match (flag, word) {
        (Some(flag), Some(word)) => Err(Error::usage(format!(
            "{what} given twice: `--id {}` and `{}`",
            flag.escape_debug(),
            word.escape_debug()
        ))
        .with_hint("give it once, by flag or as a word")),
        (flag, word) => Ok(flag.or(word).filter(|text| !text.trim().is_empty()).map(str::to_owned)),
    }
}

/// Reads a Go duration that is longer than zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration> {
    duration::parse_positive(text)
}

/// Reads how many of something are wanted: at least one.
pub(crate) fn count(text: &str) -> Result<usize> {
    text.trim().parse().ok().filter(|count| *count > 0).ok_or_else(|| {
        Error::usage(format!("not a whole number above zero: `{}`", text.escape_debug()))
            .with_hint("write digits only, such as `20`")
    })
}

/// Reads a number that may be zero.
pub(crate) fn number(text: &str) -> Result<u64> {
    text.trim().parse().map_err(|_| {
        Error::usage(format!("not a whole number: `{}`", text.escape_debug()))
            .with_hint("write digits only, such as `20`")
    })
}

/// Reads an age: a Go duration, or days as in `7d`.
pub(crate) fn age(text: &str) -> Result<Duration> {
    const DAY: u64 = 24 * 60 * 60;
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    match days.and_then(|days| days.checked_mul(DAY)) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => duration::parse_positive(text)
            .map_err(|error| error.with_hint("write days, such as `7d`, or a duration, such as `36h`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_days_or_durations() {
        assert_eq!(age("7d").unwrap(), Duration::from_secs(604_800));
        assert_eq!(age("36h").unwrap(), Duration::from_secs(129_600));
        for text in ["0d", "d", "-1d", "7w", "", "99999999999999999999d"] {
            assert!(age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lease_is_named_once() {
        assert_eq!(one_of("lease", Some("a"), None).unwrap().as_deref(), Some("a"));
        assert_eq!(one_of("lease", None, Some("b")).unwrap().as_deref(), Some("b"));
        assert_eq!(one_of("lease", None, Some(" ")).unwrap(), None);
        assert_eq!(
            one_of("lease", Some("a"), Some("b")).unwrap_err().to_string(),
            "lease given twice: `--id a` and `b`"
        );
    }
}
