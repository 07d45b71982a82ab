//! Ratio tables.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

/// One comparison.
#[derive(Debug)]
pub(super) struct Row {
    /// What was measured.
    pub(super) what: String,
    /// Our figure.
    pub(super) ours: Figure,
    /// What it is compared with, by name, where a peer exists.
    pub(super) peer: Option<(String, Figure)>,
    /// The most it may be.
    pub(super) target: Option<Figure>,
}

/// A figure with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Figure {
    /// Elapsed time.
    Time(Duration),
    /// Memory or file size in bytes.
    Bytes(u64),
}

impl Row {
    /// Whether the figure is above its target.
    pub(super) fn misses_target(&self) -> bool {
        self.target.is_some_and(|target| self.ours.value() > target.value())
    }
}

impl Figure {
    fn value(self) -> f64 {
        match self {
            Self::Time(time) => time.as_secs_f64(),
            Self::Bytes(bytes) => bytes as f64,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Time(time) if time < Duration::from_secs(2) => format!("{:.1} ms", time.as_secs_f64() * 1e3),
            Self::Time(time) => format!("{:.2} s", time.as_secs_f64()),
            Self::Bytes(bytes) => format!("{:.1} MB", bytes as f64 / 1e6),
        }
    }
}

/// Renders rows as a Markdown table.
pub(super) fn render(rows: &[Row]) -> String {
    let mut table = String::from("| What | Crabbox | Peer | Ratio | Target |\n|---|---|---|---|---|\n");
    for row in rows {
        let (peer, ratio) = match &row.peer {
            Some((name, figure)) => (
                format!("{} ({name})", figure.text()),
                format!("{:.2}×", row.ours.value() / figure.value()),
            ),
            None => ("–".to_owned(), "–".to_owned()),
        };
        let target = match row.target {
            Some(target) if row.misses_target() => format!("≤ {}, missed", target.text()),
            Some(target) => format!("≤ {}, met", target.text()),
            None => "–".to_owned(),
        };
        let _ = writeln!(
            table,
            "| {} | {} | {peer} | {ratio} | {target} |",
            row.what,
            row.ours.text()
        );
    }
    table
}

/// One line about the machine that measured.
pub(super) fn machine() -> String {
    let model = first_value("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    let memory = first_value("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kibibytes: u64 = memory
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default();
    let system = std::env::consts::OS;
    format!(
        "Measured on {processors} × {model}, {} GB of memory, {system} {kernel}.",
        kibibytes * 1024 / 1_000_000_000
    )
}

fn first_value(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Figure, Row, render};

    #[test]
    fn a_table_shows_ratio_and_verdict() {
        let rows = [
            Row {
                what: "start".to_owned(),
                ours: Figure::Time(Duration::from_millis(6)),
                peer: Some(("true".to_owned(), Figure::Time(Duration::from_millis(2)))),
                target: Some(Figure::Time(Duration::from_millis(10))),
            },
            Row {
                what: "memory".to_owned(),
                ours: Figure::Bytes(2_500_000),
                peer: None,
                target: Some(Figure::Bytes(1_000_000)),
            },
        ];
        let expected = "\
| What | Crabbox | Peer | Ratio | Target |
|---|---|---|---|---|
| start | 6.0 ms | 2.0 ms (true) | 3.00× | ≤ 10.0 ms, met |
| memory | 2.5 MB | – | – | ≤ 1.0 MB, missed |
";
        assert_eq!(render(&rows), expected);
    }
}
