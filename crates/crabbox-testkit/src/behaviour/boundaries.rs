//! What a box must not reach, and what must not be seen of it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use crabbox_core::remote::{ExecRequest, RemotePath, Stdin};
use tokio::io::AsyncWriteExt as _;

use super::Fixture;
use super::bench::{Bench, Boxed, odd_seconds, stdin_pipe};
use super::sinks::{Keep, forward};
use crate::{SecretScan, processes};

/// A directory of this machine that no box may reach, with a file in it.
struct Outside {
    directory: PathBuf,
    file: PathBuf,
}

const UNTOUCHED: &str = "untouched by any box";

impl Outside {
    #[expect(clippy::disallowed_methods, reason = "a file to be left alone needs no care")]
    fn make(fixture: &dyn Fixture) -> Self {
        let directory = fixture.scratch().join("outside");
        std::fs::create_dir_all(&directory).expect("scratch is writable");
        // The box's user could reach it, were it not for the box.
        for place in [fixture.scratch(), &directory] {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(place, open).expect("scratch is ours");
        }
        let file = directory.join("file");
        std::fs::write(&file, UNTOUCHED).expect("scratch is writable");
        Self { directory, file }
    }

    fn assert_untouched(&self) {
        assert_eq!(
            std::fs::read_to_string(&self.file).expect("the file is there"),
            UNTOUCHED
        );
        let names: Vec<_> = std::fs::read_dir(&self.directory)
            .expect("it is there")
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(names, ["file"]);
    }
}

/// Links in the workspace that lead out of it: to the file, to its directory, and there by way of other processes' roots.
async fn plant_links(bench: &Bench<'_>, boxed: &Boxed, outside: &Outside) -> (RemotePath, Vec<String>) {
    let workspace = bench.make_workspace(boxed).await;
    let file = outside.file.to_str().expect("scratch has a plain name");
    let directory = outside.directory.to_str().expect("scratch has a plain name");
    let own = std::process::id().to_string();
    let script = "set -e; cd \"$1\"; ln -s \"$2\" file; ln -s \"$3\" dir; ln -s \"../../../../../../../..$2\" up; \
                  ln -s \"/proc/1/root$2\" first; ln -s \"/proc/self/root$2\" self; ln -s \"/proc/$4/root$2\" suite; \
                  ln -s \"/proc/$4/cwd\" cwd; ln -s dir again";
    bench
        .script(boxed, script, [workspace.as_str(), file, directory, &own])
        .await
        .ok();
    let names = ["file", "dir/file", "up", "first", "self", "suite", "again/file"];
    (workspace, names.map(str::to_owned).to_vec())
}

/// An upload to a name that leads out of the box changes nothing outside.
pub async fn links_lead_no_upload_out(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let outside = Outside::make(fixture);
        let boxed = bench.create().await;
        let (workspace, mut names) = plant_links(bench, &boxed, &outside).await;
        names.extend(["dir/new", "again/deep/new", "cwd/new"].map(str::to_owned));
        for name in names {
            let path = workspace.join(&name).expect("the name is plain");
            // Refused, or put where the box itself would have put it.
            let _either = bench.upload(&boxed, &path, b"from the box", 0o666).await;
            outside.assert_untouched();
        }
        let here = std::env::current_dir().expect("there is one").join("new");
        assert!(!here.exists(), "{}", here.display());
    })
    .await;
}

/// A download of a name that leads out of the box brings nothing from outside.
pub async fn links_lead_no_download_out(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let outside = Outside::make(fixture);
        let boxed = bench.create().await;
        let (workspace, names) = plant_links(bench, &boxed, &outside).await;
        for name in names {
            let path = workspace.join(&name).expect("the name is plain");
            let mut found = Vec::new();
            let _either = bench.files().download(&boxed.machine, &path, &mut found).await;
            assert!(!String::from_utf8_lossy(&found).contains(UNTOUCHED), "{name} leads out");
        }
    })
    .await;
}

/// The directory on this machine is the directory of the box: what one side writes the other reads.
#[expect(clippy::disallowed_methods, reason = "the suite writes as any program would")]
pub async fn host_workspaces_are_the_workspace(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let hosts = bench.backend.host_workspace().expect("the case needs a host workspace");
        let path = super::bench::workspace(&boxed)
            .join("made/here")
            .expect("the name is plain");
        let host = hosts
            .directory(&boxed.machine, &path)
            .await
            .expect("the directory is made");
        assert!(host.path.is_dir());
        let file = host.path.join("from-host");
        std::fs::write(&file, "from the host").expect("the directory is writable");
        if let Some((user, group)) = host.owner {
            std::os::unix::fs::chown(&file, Some(user), Some(group)).expect("the owner can be given");
        }
        let script = "cd \"$1\" && cat from-host && printf ' and the box' >> from-host && echo box > from-box";
        assert_eq!(
            bench.script(&boxed, script, [path.as_str()]).await.ok(),
            "from the host"
        );
        assert_eq!(
            std::fs::read_to_string(&file).expect("it is there"),
            "from the host and the box"
        );
        let from_box = host.path.join("from-box");
        assert_eq!(std::fs::read_to_string(&from_box).expect("it is there"), "box\n");
        if let Some(owner) = host.owner {
            let metadata = from_box.metadata().expect("it is there");
            assert_eq!(
                (metadata.uid(), metadata.gid()),
                owner,
                "the box's files have another owner than was said"
            );
        }
        let again = hosts
            .directory(&boxed.machine, &path)
            .await
            .expect("the directory is there");
        assert_eq!(identity(&again.path), identity(&host.path));
    })
    .await;
}

fn identity(path: &std::path::Path) -> (u64, u64) {
    let metadata = path.metadata().expect("it is there");
    (metadata.dev(), metadata.ino())
}

/// A name that leads out of the box is not the way to a directory of this machine.
pub async fn host_workspaces_follow_no_links(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let outside = Outside::make(fixture);
        let boxed = bench.create().await;
        let hosts = bench.backend.host_workspace().expect("the case needs a host workspace");
        let (workspace, _) = plant_links(bench, &boxed, &outside).await;
        let suite = identity(&std::env::current_dir().expect("there is one"));
        for name in ["dir", "again", "again/deep", "cwd"] {
            let path = workspace.join(name).expect("the name is plain");
            if let Ok(host) = hosts.directory(&boxed.machine, &path).await {
                let found = identity(&host.path);
                assert!(
                    found != identity(&outside.directory) && found != suite,
                    "{name} leads out"
                );
            }
            outside.assert_untouched();
        }
    })
    .await;
}

/// The variables of whoever started Crabbox are not the box's.
pub async fn host_variables_are_not_seen(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let seen = bench
            .script(
                &boxed,
                "env; cat /proc/self/environ /proc/1/environ 2>/dev/null | tr '\\0' '\\n'; true",
                [],
            )
            .await
            .ok();
        let names: Vec<&str> = seen
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name)
            .collect();
        assert!(names.contains(&"PATH"));
        // Cargo and the test runner set these for the suite itself.
        for ours in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "NEXTEST", "NEXTEST_RUN_ID"] {
            assert!(!names.contains(&ours), "{ours} is seen in the box");
        }
        let runtime = fixture.runtime();
        for (name, value) in runtime.environment.text().filter(|(_, value)| value.len() > 12) {
            let allowed = matches!(name, "PATH" | "LANG" | "TERM" | "LC_ALL");
            assert!(
                allowed || !seen.contains(value),
                "the value of {name} is seen in the box"
            );
        }
    })
    .await;
}

/// A box sees its own processes and nobody else's.
pub async fn host_processes_are_not_seen(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let neighbour = bench.create().await;
        let seconds = odd_seconds();
        let script = "sleep \"$1\" </dev/null >/dev/null 2>&1 & echo started";
        bench.script(&neighbour, script, [&seconds]).await.ok();
        let line = format!("sleep {seconds}");
        crate::eventually("the neighbour's process runs", async || {
            bench.count_in_box(&neighbour, &line).await == 1
        })
        .await;
        assert_eq!(
            bench.count_in_box(&boxed, &line).await,
            0,
            "a box sees its neighbour's processes"
        );
        let own: Vec<String> = processes::all()
            .into_iter()
            .filter(|process| process.pid == std::process::id())
            .map(|process| process.argv.join(" "))
            .collect();
        assert_eq!(
            bench
                .count_in_box(&boxed, own.first().expect("this process runs").trim_end())
                .await,
            0,
            "a box sees the suite"
        );
    })
    .await;
}

/// What a command is given in confidence is in no file of Crabbox, in no command line, in no error.
pub async fn secrets_are_seen_nowhere(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let mut scan = SecretScan::new();
        let (variable, typed) = (scan.canary("variable"), scan.canary("input"));
        let boxed = bench.create().await;
        let env = BTreeMap::from([("SUITE_TOKEN".to_owned(), variable.clone())]);
        let (mut input, stdin) = stdin_pipe();
        let (sink, mut output) = forward();
        let script = "test -n \"$SUITE_TOKEN\" && read secret && test -n \"$secret\" && echo ready && read line";
        let request = ExecRequest::script(script, [] as [&str; 0])
            .with_env(env.clone())
            .with_stdin(stdin);
        let run = bench.exec_for(&boxed, request, sink);
        let search = async {
            input
                .write_all(format!("{typed}\n").as_bytes())
                .await
                .expect("the command reads");
            output.until("ready").await;
            scan.arguments();
            let directories = &fixture.runtime().directories;
            for place in [&directories.state, &directories.config, &directories.cache] {
                scan.directory(place);
            }
            input.write_all(b"\n").await.expect("the command reads");
        };
        let (status, ()) = tokio::join!(run, search);
        assert!(status.expect("the command ends").success());
        let nowhere: RemotePath = "/no/such/directory".parse().expect("the path is absolute");
        let failing = ExecRequest::new(["true"])
            .in_dir(nowhere)
            .with_env(env)
            .with_stdin(Stdin::Bytes(Bytes::from(typed)));
        let mut kept = Keep::default();
        let error = bench
            .exec_into(&boxed, failing, &mut kept)
            .await
            .expect_err("there is no such directory");
        scan.bytes("an error", format!("{error} {error:?} {:?}", error.hint()).as_bytes());
        scan.bytes("the output of a failure", &[kept.stdout, kept.stderr].concat());
        let machine = bench.present(&boxed.binding).await;
        scan.bytes("the machine's description", format!("{machine:?}").as_bytes());
        scan.assert_none();
    })
    .await;
}
