//! Wall time, time to the first byte and peak memory of a child process.

#![expect(
    unsafe_code,
    reason = "wait4 is the only way to learn the resource use of one particular child"
)]

use std::io::Read as _;
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What one child needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// From before the spawn until the child was reaped.
    pub(super) wall: Duration,
    /// From before the spawn until the first byte of its standard output.
    pub(super) first_byte: Option<Duration>,
    /// Largest resident set of the child or of a process it waited for.
    pub(super) peak_bytes: u64,
    /// Bytes it wrote to standard output.
    pub(super) output_bytes: u64,
}

/// Runs a command once, draining its standard output.
///
/// The kernel's figure starts at the size of the spawning process, so the runner keeps itself small: whatever needs
/// memory happens in a child.
///
/// # Errors
/// When the command cannot start or fails; the message holds the end of what it wrote to standard error.
pub(super) fn sample(command: &mut Command) -> Result<Sample> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let mut stderr = child.stderr.take().context("no pipe for standard error")?;
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        // A failed read only shortens the message of a failure.
        let _ = stderr.read_to_end(&mut text);
        text
    });
    let mut stdout = child.stdout.take().context("no pipe for standard output")?;
    let mut buffer = vec![0_u8; 64 * 1024];
    let (mut first_byte, mut output_bytes) = (None, 0);
    loop {
        let count = stdout.read(&mut buffer).context("cannot read standard output")?;
        if count == 0 {
            break;
        }
        first_byte.get_or_insert_with(|| start.elapsed());
        output_bytes += count as u64;
    }
    let (status, usage) = wait(child.id())?;
    let wall = start.elapsed();
    let errors = errors.join().unwrap_or_default();
    if status != 0 {
        let text = String::from_utf8_lossy(&errors);
        let tail: Vec<&str> = text.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{command:?} ended with wait status {status:#x}\n{}", tail.join("\n"));
    }
    Ok(Sample {
        wall,
        first_byte,
        peak_bytes: peak_bytes(&usage),
        output_bytes,
    })
}

/// Runs a command once to warm caches, then `repeat` times, and keeps the median of each figure.
///
/// # Errors
/// When a run fails.
pub(super) fn median(repeat: usize, mut command: impl FnMut() -> Result<Command>) -> Result<Sample> {
    sample(&mut command()?)?;
    let samples = (0..repeat.max(1))
        .map(|_| sample(&mut command()?))
        .collect::<Result<Vec<_>>>()?;
    Ok(Sample {
        wall: middle(samples.iter().map(|sample| sample.wall)).unwrap_or_default(),
        first_byte: middle(samples.iter().filter_map(|sample| sample.first_byte)),
        peak_bytes: middle(samples.iter().map(|sample| sample.peak_bytes)).unwrap_or_default(),
        output_bytes: middle(samples.iter().map(|sample| sample.output_bytes)).unwrap_or_default(),
    })
}

fn middle<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn wait(process: u32) -> Result<(i32, libc::rusage)> {
    let process = libc::pid_t::try_from(process).context("process id out of range")?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are valid for writes for the whole call, and the child is ours and not yet reaped:
        // `Child::wait` is never called on it.
        let reaped = unsafe { libc::wait4(process, &raw mut status, 0, usage.as_mut_ptr()) };
        if reaped == process {
            // SAFETY: zeroed memory is a valid `rusage`, and the call filled it.
            return Ok((status, unsafe { usage.assume_init() }));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("cannot wait for the child");
        }
    }
}

/// Linux counts in kibibytes, macOS in bytes.
fn peak_bytes(usage: &libc::rusage) -> u64 {
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).unwrap_or_default() * unit
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use xtask::process::command;

    use super::{middle, sample};

    #[test]
    fn a_child_is_timed_weighed_and_counted() {
        let script = "sleep 0.05; head -c 300000 /dev/zero; sleep 0.05";
        let found = sample(command("sh", Path::new("/")).args(["-c", script])).unwrap();
        assert_eq!(found.output_bytes, 300_000);
        assert!(found.first_byte.unwrap() >= Duration::from_millis(50));
        assert!(found.wall >= found.first_byte.unwrap() + Duration::from_millis(50));
        assert!(found.peak_bytes > 100_000, "{}", found.peak_bytes);
    }

    #[test]
    fn a_failure_shows_what_the_child_said() {
        let error = sample(command("sh", Path::new("/")).args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("broken"), "{error}");
    }

    #[test]
    fn the_middle_value_counts() {
        assert_eq!(middle([9, 1, 5].into_iter()), Some(5));
        assert_eq!(middle(std::iter::empty::<u8>()), None);
    }
}
