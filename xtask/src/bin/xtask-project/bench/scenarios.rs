//! What is measured, and against what.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use xtask::process;

use super::Bench;
use super::fixtures::{self, Tree};
use super::measure::{self, Sample};
use super::table::{Figure, Row};

/// One benchmark.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    /// Name on the command line and of its region in the reference page.
    pub(super) name: &'static str,
    /// What it measures.
    pub(super) title: &'static str,
    /// Measures it.
    pub(super) run: fn(&Bench) -> Result<Vec<Row>>,
}

/// Every benchmark, cheapest first.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "startup",
        title: "Start of the program",
        run: startup,
    },
    Scenario {
        name: "first-byte",
        title: "From nothing to a command's first byte in a new `local` box",
        run: first_byte,
    },
    Scenario {
        name: "archive",
        title: "Archive of 1,700 files, 44 MB",
        run: archive,
    },
    Scenario {
        name: "fork",
        title: "100 copies of 1,700 files, 44 MB",
        run: fork,
    },
    Scenario {
        name: "look",
        title: "Looking at a checkout where nothing changed",
        run: look,
    },
    Scenario {
        name: "stream",
        title: "10 GB of output through `crabbox run`",
        run: stream,
    },
    Scenario {
        name: "memory",
        title: "Manifest of 1,000,000 files",
        run: memory,
    },
];

const FORKS: u32 = 100;
const PEER_COPIES: u32 = 10;
const SHORT_STREAM: u64 = 100_000_000;
const LONG_STREAM: u64 = 10_000_000_000;

fn startup(bench: &Bench) -> Result<Vec<Row>> {
    let ours = measure::median(bench.times(50), || Ok(bench.crabbox(&bench.home, &["--version"])))?;
    let peer = measure::median(bench.times(50), || Ok(process::command("true", &bench.home)))?;
    Ok(vec![Row {
        what: "`crabbox --version`".to_owned(),
        ours: Figure::Time(ours.wall),
        peer: Some(("`true`".to_owned(), Figure::Time(peer.wall))),
        target: Some(Figure::Time(Duration::from_millis(10))),
    }])
}

fn first_byte(bench: &Bench) -> Result<Vec<Row>> {
    let tree = bench.tree(fixtures::REPOSITORY)?;
    let bare = ["run", "--provider", "local", "--no-sync", "--", "echo", "x"];
    let synced = ["run", "--provider", "local", "--", "echo", "x"];
    let ours = measure::median(bench.times(20), || Ok(bench.crabbox(&tree, &bare)))?;
    let with_sync = measure::median(bench.times(10), || Ok(bench.crabbox(&tree, &synced)))?;
    let peer = measure::median(bench.times(20), || Ok(shell(&tree, "echo x")))?;
    let peer = ("`sh -c 'echo x'`".to_owned(), Figure::Time(first(&peer)?));
    Ok(vec![
        Row {
            what: "create, run, first byte; nothing synced".to_owned(),
            ours: Figure::Time(first(&ours)?),
            peer: Some(peer.clone()),
            target: Some(Figure::Time(Duration::from_millis(15))),
        },
        Row {
            what: "the same, 44 MB synced".to_owned(),
            ours: Figure::Time(first(&with_sync)?),
            peer: Some(peer),
            target: None,
        },
        Row {
            what: "until the box is gone; nothing synced".to_owned(),
            ours: Figure::Time(ours.wall),
            peer: None,
            target: None,
        },
    ])
}

fn look(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (tree, target) in [
        (fixtures::LARGE, Some(Duration::from_millis(150))),
        (fixtures::HUGE, None),
    ] {
        let (ours, peer) = plan_and_status(bench, tree, 10)?;
        rows.push(Row {
            what: format!("{} files", grouped(tree.files)),
            ours: Figure::Time(ours.wall),
            peer: Some(("`git status --porcelain`".to_owned(), Figure::Time(peer.wall))),
            target: target.map(Figure::Time),
        });
    }
    Ok(rows)
}

fn memory(bench: &Bench) -> Result<Vec<Row>> {
    let (ours, peer) = plan_and_status(bench, fixtures::MILLION, 1)?;
    let peer_name = "`git status --porcelain`".to_owned();
    Ok(vec![
        Row {
            what: "peak memory".to_owned(),
            ours: Figure::Bytes(ours.peak_bytes),
            peer: Some((peer_name.clone(), Figure::Bytes(peer.peak_bytes))),
            target: Some(Figure::Bytes(400_000_000)),
        },
        Row {
            what: "time".to_owned(),
            ours: Figure::Time(ours.wall),
            peer: Some((peer_name, Figure::Time(peer.wall))),
            target: None,
        },
    ])
}

/// Looks at an unchanged tree both ways; the warm-up fills our stat cache and git's.
fn plan_and_status(bench: &Bench, tree: Tree, repeat: usize) -> Result<(Sample, Sample)> {
    let directory = bench.tree(tree)?;
    let ours = measure::median(bench.times(repeat), || {
        Ok(bench.crabbox(&directory, &["sync-plan", "--json"]))
    })?;
    let status = || Ok(fixtures::git(&directory, &["status", "--porcelain"]));
    let peer = measure::median(bench.times(repeat), status)?;
    Ok((ours, peer))
}

fn archive(bench: &Bench) -> Result<Vec<Row>> {
    let tree = bench.tree(fixtures::REPOSITORY)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let (own, other) = (bench.fixtures.join("own.tar.zst"), bench.fixtures.join("peer.tar.zst"));
    let ours = measure::median(bench.times(10), || {
        let mut command = process::command(&program, &tree);
        command.arg("archive").arg(&tree).arg(&own);
        Ok(command)
    })?;
    let peer = measure::median(bench.times(10), || {
        let mut command = shell(&tree, r#"tar --exclude=./.git -cf - . | zstd -q -T0 -f -o "$1""#);
        command.arg("sh").arg(&other);
        Ok(command)
    })?;
    let size = |path: &Path| {
        fs::metadata(path)
            .map(|facts| facts.len())
            .context("the archive is missing")
    };
    let name = "`tar \\| zstd -T0`".to_owned();
    Ok(vec![
        Row {
            what: "time".to_owned(),
            ours: Figure::Time(ours.wall),
            peer: Some((name.clone(), Figure::Time(peer.wall))),
            target: None,
        },
        Row {
            what: "size".to_owned(),
            ours: Figure::Bytes(size(&own)?),
            peer: Some((name, Figure::Bytes(size(&other)?))),
            target: None,
        },
    ])
}

fn fork(bench: &Bench) -> Result<Vec<Row>> {
    let tree = bench.tree(fixtures::REPOSITORY)?;
    let leased = bench.output(&tree, &["warmup", "--provider", "local"])?;
    let lease = field(&leased, "leased ").context("warmup printed no lease")?;
    bench.output(&tree, &["run", "--id", &lease, "--sync-only"])?;
    let created = bench.output(&tree, &["checkpoint", "create", "--id", &lease])?;
    let checkpoint = field(&created, "id=").context("checkpoint create printed no id")?;
    let count = FORKS.to_string();
    let mut samples = Vec::new();
    for _ in 0..bench.times(3) {
        samples.push(measure::sample(
            &mut bench.crabbox(&tree, &["checkpoint", "fork", &checkpoint, "--count", &count]),
        )?);
        stop_all(bench, &tree, &lease)?;
    }
    samples.sort_by_key(|sample| sample.wall);
    let ours = samples[samples.len() / 2];
    bench.output(&tree, &["checkpoint", "delete", &checkpoint])?;
    bench.output(&tree, &["stop", "--provider", "local", &lease])?;

    let copies = bench.fixtures.join("copies");
    let peer = measure::median(bench.times(3), || {
        if copies.exists() {
            fs::remove_dir_all(&copies).context("cannot remove the copies before")?;
        }
        fs::create_dir(&copies).context("cannot create a directory for copies")?;
        let script = r#"for copy in $(seq "$2"); do cp -r --reflink=never . "$1/$copy"; done"#;
        let mut command = shell(&tree, script);
        command.arg("sh").arg(&copies).arg(PEER_COPIES.to_string());
        Ok(command)
    })?;
    fs::remove_dir_all(&copies).context("cannot remove the copies")?;
    Ok(vec![Row {
        what: format!("`checkpoint fork --count {FORKS}`, boxes included"),
        ours: Figure::Time(ours.wall),
        peer: Some((
            format!("`cp -r` × {PEER_COPIES}, scaled"),
            Figure::Time(peer.wall * FORKS / PEER_COPIES),
        )),
        target: Some(Figure::Time(Duration::from_secs(1))),
    }])
}

/// Stops every lease of the benchmark's own state except one.
fn stop_all(bench: &Bench, directory: &Path, except: &str) -> Result<()> {
    let claims = bench.output(directory, &["claims", "list", "--json"])?;
    let leases: Vec<String> = claims
        .match_indices("\"cbx_")
        .map(|(start, _)| {
            claims[start + 1..]
                .chars()
                .take_while(|character| *character != '"')
                .collect()
        })
        .collect();
    for lease in leases.iter().filter(|lease| lease.as_str() != except) {
        bench.output(directory, &["stop", "--provider", "local", lease])?;
    }
    Ok(())
}

fn stream(bench: &Bench) -> Result<Vec<Row>> {
    let tree = bench.tree(fixtures::REPOSITORY)?;
    let through = |bytes: u64| -> Result<Sample> {
        let count = bytes.to_string();
        let command = [
            "run",
            "--provider",
            "local",
            "--no-sync",
            "--",
            "head",
            "-c",
            &count,
            "/dev/zero",
        ];
        let found = measure::sample(&mut bench.crabbox(&tree, &command))?;
        if found.output_bytes != bytes {
            bail!("{} of {bytes} bytes arrived", found.output_bytes);
        }
        Ok(found)
    };
    let short = through(SHORT_STREAM)?;
    let long = through(LONG_STREAM)?;
    let peer = measure::sample(&mut shell(&tree, &format!("head -c {LONG_STREAM} /dev/zero | cat")))?;
    Ok(vec![
        Row {
            what: "peak memory".to_owned(),
            ours: Figure::Bytes(long.peak_bytes),
            peer: Some(("the same with 100 MB".to_owned(), Figure::Bytes(short.peak_bytes))),
            // Constant means: the last 9.9 GB may cost what allocators and page sizes vary by, and no more.
            target: Some(Figure::Bytes(short.peak_bytes + 8_000_000)),
        },
        Row {
            what: "time".to_owned(),
            ours: Figure::Time(long.wall),
            peer: Some(("`head \\| cat`".to_owned(), Figure::Time(peer.wall))),
            target: None,
        },
    ])
}

impl Bench {
    fn times(&self, usual: usize) -> usize {
        self.repeat.unwrap_or(usual)
    }

    /// The release build with an environment of its own.
    fn crabbox(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = process::command(&self.crabbox, directory);
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .args(arguments);
        command
    }

    /// Standard output of a step that is not measured.
    fn output(&self, directory: &Path, arguments: &[&str]) -> Result<String> {
        let output = self
            .crabbox(directory, arguments)
            .output()
            .context("cannot start crabbox")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "crabbox {} ended with {}\n{text}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(text)
    }
}

fn shell(directory: &Path, script: &str) -> Command {
    let mut command = process::command("sh", directory);
    command.args(["-c", script]);
    command
}

fn first(sample: &Sample) -> Result<Duration> {
    sample.first_byte.context("the command wrote nothing")
}

/// The word after `key`, wherever it first stands.
fn field(text: &str, key: &str) -> Option<String> {
    let (_, rest) = text.split_once(key)?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{field, grouped};

    #[test]
    fn words_after_a_key_are_found() {
        assert_eq!(field("x\nleased cbx_1 slug=a\n", "leased ").as_deref(), Some("cbx_1"));
        assert_eq!(field("none", "id="), None);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([999, 1_700, 1_000_000].map(grouped), ["999", "1,700", "1,000,000"]);
    }
}
