//! Durations as Go writes them: `90m`, `1h30m`, `1.5s`, `250ms`, `0s`.
//!
//! Configuration, flags, labels and reports all use this one grammar, so that a value printed by one implementation is
//! read back by the other. Source: the `time` package's `ParseDuration` and `Duration.String`.

use std::time::Duration;

use crate::error::{Error, Result};

const NANOSECOND: u128 = 1;
const MICROSECOND: u128 = 1_000 * NANOSECOND;
const MILLISECOND: u128 = 1_000 * MICROSECOND;
const SECOND: u128 = 1_000 * MILLISECOND;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;

/// Longest duration that Go can hold: 2^63 − 1 nanoseconds, about 292 years.
pub const MAX: Duration = Duration::from_nanos(i64::MAX as u64);

/// Reads a duration: decimal numbers, each with a unit (`h m s ms us µs ns`), or a bare `0`.
///
/// # Errors
///
/// `Usage` when the text is empty, negative, lacks a unit, names an unknown unit, or exceeds [`MAX`].
pub fn parse(text: &str) -> Result<Duration> {
    let malformed = || {
        Error::usage(format!("not a duration: `{}`", text.escape_debug()))
            .with_hint("write numbers with units, such as `90m`, `1h30m` or `1.5s`")
    };
    if text.starts_with('-') {
        return Err(
            Error::usage(format!("duration must not be negative: `{}`", text.escape_debug()))
                .with_hint("write numbers with units, such as `90m`, `1h30m` or `1.5s`"),
        );
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(malformed());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(malformed());
        }
        let unit_length = after
            .find(|character: char| character == '.' || character.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_length);
        let unit = unit_nanoseconds(unit).ok_or_else(malformed)?;
        total = part(whole, fraction, unit)
            .and_then(|nanoseconds| total.checked_add(nanoseconds))
            .filter(|total| *total <= MAX.as_nanos())
            .ok_or_else(|| {
                Error::usage(format!("duration is too long: `{}`", text.escape_debug()))
                    .with_hint("the longest is 2562047h")
            })?;
        rest = next;
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| malformed())
}

/// Reads a duration that must be longer than zero, as time limits must.
///
/// # Errors
///
/// `Usage` for everything [`parse`] refuses, and for zero.
pub fn parse_positive(text: &str) -> Result<Duration> {
    let duration = parse(text)?;
    if duration.is_zero() {
        return Err(
            Error::usage(format!("duration must be longer than zero: `{}`", text.escape_debug()))
                .with_hint("write a duration such as `90m`, or leave the setting out"),
        );
    }
    Ok(duration)
}

/// Writes a duration as Go does: `1h30m0s`, `15m0s`, `1.5s`, `250ms`, `1.5µs`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < SECOND {
        let (unit, name) = match nanoseconds {
            0..MICROSECOND => (NANOSECOND, "ns"),
            MICROSECOND..MILLISECOND => (MICROSECOND, "µs"),
            _ => (MILLISECOND, "ms"),
        };
        return decimal(nanoseconds, unit) + name;
    }
    let seconds = decimal(nanoseconds % MINUTE, SECOND);
    let minutes = nanoseconds / MINUTE % 60;
    match nanoseconds / HOUR {
        0 if minutes == 0 => format!("{seconds}s"),
        0 => format!("{minutes}m{seconds}s"),
        hours => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Rounds to whole milliseconds, half away from zero, as reports show elapsed time.
pub fn round_to_milliseconds(duration: Duration) -> Duration {
    let nanoseconds = (duration.as_nanos() + MILLISECOND / 2) / MILLISECOND * MILLISECOND;
    u64::try_from(nanoseconds).map_or(Duration::MAX, Duration::from_nanos)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|character: char| !character.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

fn unit_nanoseconds(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => NANOSECOND,
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// `whole.fraction` times the unit. `None` when it cannot fit.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "Go rounds the fraction through a float, and so do we"
)]
fn part(whole: &str, fraction: &str, unit: u128) -> Option<u128> {
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?
    };
    let (mut digits, mut scale) = (0_u64, 1.0_f64);
    for digit in fraction.bytes().map(|byte| u64::from(byte - b'0')) {
        // Digits beyond what fits cannot matter.
        if digits > (i64::MAX as u64) / 10 {
            break;
        }
        digits = digits * 10 + digit;
        scale *= 10.0;
    }
    let scaled = (digits as f64 * (unit as f64 / scale)) as u128;
    u128::from(whole).checked_mul(unit)?.checked_add(scaled)
}

fn decimal(nanoseconds: u128, unit: u128) -> String {
    let (whole, rest) = (nanoseconds / unit, nanoseconds % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("5s", 5 * SECOND),
            ("+5s", 5 * SECOND),
            ("90m", 90 * MINUTE),
            ("1h30m", 90 * MINUTE),
            ("1.5h", 90 * MINUTE),
            ("300ms", 300 * MILLISECOND),
            (".5s", 500 * MILLISECOND),
            ("1.s", SECOND),
            ("1.004s", 1004 * MILLISECOND),
            ("10.5s4m", 4 * MINUTE + 10_500 * MILLISECOND),
            (
                "1h2m3s4ms5us6ns",
                HOUR + 2 * MINUTE + 3 * SECOND + 4 * MILLISECOND + 5 * MICROSECOND + 6,
            ),
            ("12µs", 12 * MICROSECOND),
            ("12μs", 12 * MICROSECOND),
            ("0.3333333333333333333h", 20 * MINUTE),
            ("0.100000000000000000000h", 6 * MINUTE),
            ("0.9223372036854775807h", 55 * MINUTE + 20_413_933_267),
            ("9223372036854775807ns", i64::MAX as u128),
        ];
        for (text, nanoseconds) in cases {
            assert_eq!(parse(text).unwrap().as_nanos(), nanoseconds, "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses_and_negative_time() {
        for text in [
            "",
            "+",
            "-",
            "-5s",
            "3",
            ".",
            "s",
            ".s",
            "+.s",
            "1.5",
            "5 s",
            "1d",
            "1hm",
            "1h-2m",
            "ten minutes",
            "1S",
            "٣s",
            "9223372036854775808ns",
            "99999999999999999999h",
            "3000000h",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind().exit_code(), 2, "{text}");
            assert!(error.to_string().contains(text), "{text}: {error}");
        }
        assert!(parse_positive("0s").is_err());
        assert_eq!(parse_positive("1s").unwrap(), Duration::from_secs(1));
    }

    #[test]
    fn writes_what_go_writes() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (250_000_000, "250ms"),
            (999_999_999, "999.999999ms"),
            (1_500_000_000, "1.5s"),
            (3_300_000_000, "3.3s"),
            (60_000_000_000, "1m0s"),
            (90_000_000_000, "1m30s"),
            (245_001_000_000, "4m5.001s"),
            (900_000_000_000, "15m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(format(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn rounds_to_milliseconds() {
        assert_eq!(
            round_to_milliseconds(Duration::from_micros(1499)),
            Duration::from_millis(1)
        );
        assert_eq!(
            round_to_milliseconds(Duration::from_micros(1500)),
            Duration::from_millis(2)
        );
    }

    #[test]
    fn every_written_duration_is_read_back() {
        // A linear congruential walk over all magnitudes; cheap and repeatable.
        let mut state: u64 = 0x2545_f491_4f6c_dd1d;
        for step in 0..20_000_u32 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let duration = Duration::from_nanos((state >> 1) >> (step % 63));
            assert_eq!(parse(&format(duration)).unwrap(), duration);
        }
    }
}
