//! Files to and from a box.

use std::time::Duration;

use crabbox_core::ErrorKind;
use crabbox_core::remote::{RemotePath, Upload};

use super::Fixture;
use super::bench::{Bench, Boxed};

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn join(directory: &RemotePath, name: &str) -> RemotePath {
    directory.join(name).expect("the name is plain")
}

async fn mode_of(bench: &Bench<'_>, boxed: &Boxed, path: &RemotePath) -> String {
    bench
        .script(boxed, "ls -ld \"$1\" | cut -c1-10", [path.as_str()])
        .await
        .ok()
}

/// A file arrives with its content and mode; directories are made, and what is there is replaced.
pub async fn uploads_arrive_with_their_mode(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let workspace = bench.make_workspace(&boxed).await;
        let path = join(&workspace, "new/deep er/ü.txt");
        for (content, mode, shown) in [
            ("first", 0o644, "-rw-r--r--\n"),
            ("second, longer", 0o600, "-rw-------\n"),
            ("#!/bin/sh\necho ran", 0o755, "-rwxr-xr-x\n"),
            ("", 0o640, "-rw-r-----\n"),
        ] {
            bench
                .upload(&boxed, &path, content.as_bytes(), mode)
                .await
                .expect("a file can be put");
            assert_eq!(bench.script(&boxed, "cat \"$1\"", [path.as_str()]).await.ok(), content);
            assert_eq!(mode_of(bench, &boxed, &path).await, shown);
        }
        bench
            .upload(&boxed, &path, b"#!/bin/sh\necho ran", 0o755)
            .await
            .expect("a file can be put");
        assert_eq!(bench.script(&boxed, "\"$1\"", [path.as_str()]).await.ok(), "ran\n");
        let below_a_file = join(&path, "file");
        assert!(
            bench.upload(&boxed, &below_a_file, b"", 0o644).await.is_err(),
            "a file is no directory"
        );
    })
    .await;
}

/// What was put belongs to whoever runs commands in the box.
pub async fn uploads_belong_to_the_box(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let workspace = bench.make_workspace(&boxed).await;
        let path = join(&workspace, "made/by/upload");
        bench
            .upload(&boxed, &path, b"a", 0o600)
            .await
            .expect("a file can be put");
        let script =
            "printf b >> \"$1\" && chmod 644 \"$1\" && mv \"$1\" \"$1.moved\" && : > \"$1\" && cat \"$1.moved\"";
        assert_eq!(bench.script(&boxed, script, [path.as_str()]).await.ok(), "ab");
    })
    .await;
}

/// Nothing, and more than fits in any buffer, of known length and not.
pub async fn uploads_of_any_size_arrive(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let path = join(&bench.make_workspace(&boxed).await, "sized");
        for length in [0, 1, 65_536, 65_537, 32 * 1024 * 1024] {
            for known in [true, false] {
                let content = pattern(length);
                let sum = checksum(&content);
                let mut upload = Upload::from_bytes(content, 0o644);
                upload.length = upload.length.filter(|_| known);
                bench
                    .delegated()
                    .upload(&boxed.machine, &path, upload)
                    .await
                    .expect("a file can be put");
                let found = bench.script(&boxed, "cksum < \"$1\"", [path.as_str()]).await.ok();
                assert_eq!(found, format!("{sum} {length}\n"), "{length} bytes");
            }
        }
    })
    .await;
}

/// The checksum of POSIX `cksum`.
fn checksum(content: &[u8]) -> u32 {
    let step = |sum: u32, byte: u8| {
        let mut sum = sum ^ (u32::from(byte) << 24);
        for _ in 0..8 {
            sum = if sum & 0x8000_0000 == 0 {
                sum << 1
            } else {
                (sum << 1) ^ 0x04c1_1db7
            };
        }
        sum
    };
    let mut table = [0_u32; 256];
    for (index, slot) in table.iter_mut().enumerate() {
        *slot = step(0, index as u8);
    }
    let fast = |sum: u32, byte: u8| (sum << 8) ^ table[((sum >> 24) as u8 ^ byte) as usize];
    let mut sum = content.iter().fold(0, |sum, byte| fast(sum, *byte));
    let mut length = content.len();
    while length > 0 {
        sum = fast(sum, (length & 0xff) as u8);
        length >>= 8;
    }
    !sum
}

/// A file comes back as it is in the box.
pub async fn downloads_bring_what_is_there(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let workspace = bench.make_workspace(&boxed).await;
        for length in [0, 1, 100_000, 16 * 1024 * 1024] {
            let path = join(&workspace, &format!("file {length}"));
            let content = pattern(length);
            bench
                .upload(&boxed, &path, &content, 0o600)
                .await
                .expect("a file can be put");
            let mut found = Vec::new();
            let count = bench
                .files()
                .download(&boxed.machine, &path, &mut found)
                .await
                .expect("a file can be fetched");
            assert_eq!(count, length as u64);
            assert!(found == content, "other bytes came back than were put");
        }
        let written = join(&workspace, "by the box");
        bench
            .script(&boxed, "echo hello > \"$1\"; chmod 600 \"$1\"", [written.as_str()])
            .await
            .ok();
        let mut found = Vec::new();
        bench
            .files()
            .download(&boxed.machine, &written, &mut found)
            .await
            .expect("a file can be fetched");
        assert_eq!(found, b"hello\n");
    })
    .await;
}

/// What is no regular file, or not there, is an error, and nothing waits for it.
pub async fn downloads_bring_regular_files_only(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let workspace = bench.make_workspace(&boxed).await;
        let fifo = join(&workspace, "fifo");
        bench.script(&boxed, "mkfifo \"$1\"", [fifo.as_str()]).await.ok();
        for path in [join(&workspace, "missing"), workspace, fifo] {
            let mut found = Vec::new();
            let fetch = bench.files().download(&boxed.machine, &path, &mut found);
            let result = tokio::time::timeout(Duration::from_secs(20), fetch).await;
            let error = result
                .expect("nothing waits for it")
                .expect_err("it is no regular file");
            assert_eq!(error.kind(), ErrorKind::Remote, "{path}: {error}");
            assert!(found.is_empty());
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_cksum() {
        assert_eq!(checksum(b""), 4_294_967_295);
        assert_eq!(checksum(b"hello\n"), 3_015_617_425);
    }
}
