//! Running commands: status, streams, arguments, variables.

use std::collections::BTreeMap;

use bytes::Bytes;
use crabbox_core::remote::{ExecRequest, RemotePath, Stdin};
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;

use super::Fixture;
use super::bench::{Bench, Boxed, stdin_pipe};
use super::sinks::{Count, Gate, forward, resident_bytes};

/// Any exit status is a result.
pub async fn exit_codes_are_data(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        for code in [0, 1, 2, 3, 7, 42, 124, 127, 130, 137, 255] {
            let ran = bench.script(&boxed, "echo out; exit \"$1\"", [&code.to_string()]).await;
            assert_eq!((ran.status.code, ran.status.signal), (code, None));
            assert_eq!(ran.status.success(), code == 0);
            assert_eq!(ran.stdout, "out\n");
        }
    })
    .await;
}

/// A command is started once, whatever its end looks like.
pub async fn commands_are_started_once(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let workspace = bench.make_workspace(&boxed).await;
        for (name, end) in [
            ("ok", "exit 0"),
            ("lost", "exit 255"),
            ("missing", "exit 127"),
            ("killed", "kill -KILL $$"),
        ] {
            let mark = workspace.join(name).expect("the name is plain");
            let script = format!("echo started >> \"$1\"; {end}");
            bench.script(&boxed, &script, [mark.as_str()]).await;
            let starts = bench.script(&boxed, "cat \"$1\"", [mark.as_str()]).await.ok();
            assert_eq!(starts, "started\n", "{end}");
        }
    })
    .await;
}

/// The end by a signal is 128 and the signal's number.
pub async fn signals_are_data(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        for (name, number) in [("TERM", 15), ("KILL", 9), ("USR1", 10), ("SEGV", 11)] {
            let ran = bench
                .script(&boxed, "echo out; kill -\"$1\" $$; sleep 30", [name])
                .await;
            assert_eq!(ran.status.code, 128 + number, "{name}: {ran:?}");
            assert_eq!(ran.status.signal, Some(number), "{name}");
            assert_eq!(ran.stdout, "out\n");
        }
    })
    .await;
}

/// A program that does not exist ends like one that a shell does not find: 127 and a line of why; 126 when it cannot be
/// executed.
pub async fn programs_that_do_not_exist_are_data(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let workspace = bench.make_workspace(&boxed).await;
        for program in ["crabbox-no-such-program", "/no/such/program"] {
            let ran = bench
                .exec(&boxed, ExecRequest::new([program, "argument"]))
                .await
                .expect("it is a result");
            assert_eq!(ran.status.code, 127, "{ran:?}");
            assert!(ran.stderr.contains(program), "{ran:?}");
        }
        let plain = workspace.join("plain.txt").expect("the name is plain");
        bench
            .upload(&boxed, &plain, b"not a program", 0o644)
            .await
            .expect("a file can be put");
        let ran = bench
            .exec(&boxed, ExecRequest::new([plain.as_str()]))
            .await
            .expect("it is a result");
        assert_eq!(ran.status.code, 126, "{ran:?}");
    })
    .await;
}

/// No shell looks at arguments.
pub async fn arguments_arrive_untouched(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let words = [
            "", " ", "a b", "$HOME", "`id`", "$(id)", "*", "~", "'", "\"", "\\", "\n", "-n", "--", "é∂", ";|&<>", "a=b",
        ];
        let mut argv = vec!["printf", "[%s]"];
        argv.extend(words);
        let ran = bench.exec(&boxed, ExecRequest::new(argv)).await.expect("printf runs");
        assert_eq!(ran.ok(), words.map(|word| format!("[{word}]")).concat());
        let long = "x".repeat(100_000);
        assert_eq!(bench.script(&boxed, "echo ${#1}", [&long]).await.ok(), "100000\n");
    })
    .await;
}

/// Variables are added to the box's own environment, whatever they hold.
pub async fn variables_arrive_untouched(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let own = bench
            .script(&boxed, "echo \"${PATH:+path} ${HOME:+home}\"", [])
            .await
            .ok();
        assert_eq!(own, "path home\n");
        let values = ["", " ", "a b", "$HOME", "`id`", "line\nline", "'\"\\", "é∂", "a=b"];
        for value in values {
            let env = BTreeMap::from([("SUITE_VALUE".to_owned(), value.to_owned())]);
            let request = ExecRequest::script(
                "printf '%s.' \"${SUITE_VALUE-unset}\" \"${PATH:+path}\"",
                [] as [&str; 0],
            );
            let ran = bench
                .exec(&boxed, request.with_env(env))
                .await
                .expect("a script can be run");
            assert_eq!(ran.ok(), format!("{value}.path."));
        }
        assert_eq!(
            bench.script(&boxed, "echo ${SUITE_VALUE-unset}", []).await.ok(),
            "unset\n",
            "they last for one command"
        );
        let env = BTreeMap::from([("PATH".to_owned(), "/nowhere".to_owned())]);
        let request = ExecRequest::new(["/bin/sh", "-c", "echo $PATH"]).with_env(env);
        assert_eq!(
            bench.exec(&boxed, request).await.expect("a shell runs").ok(),
            "/nowhere\n"
        );
    })
    .await;
}

/// Input arrives whole and ends, from memory and from a stream, text or not.
pub async fn input_arrives(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let content: Vec<u8> = (0..3_000_000_u32)
            .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let stream = || Stdin::Stream(Box::pin(std::io::Cursor::new(content.clone())));
        for stdin in [Stdin::Bytes(Bytes::from(content.clone())), stream()] {
            let mut sink = super::sinks::Keep::default();
            let request = ExecRequest::new(["cat"]).with_stdin(stdin);
            let status = bench.exec_into(&boxed, request, &mut sink).await.expect("cat runs");
            assert!(status.success());
            assert!(
                sink.stdout == content,
                "{} of {} bytes came back, or others",
                sink.stdout.len(),
                content.len()
            );
        }
        for stdin in [Stdin::Empty, Stdin::Bytes(Bytes::new())] {
            let request = ExecRequest::new(["cat"]).with_stdin(stdin);
            assert_eq!(bench.exec(&boxed, request).await.expect("cat runs").ok(), "");
        }
    })
    .await;
}

/// A command that does not read its input ends all the same.
pub async fn unread_input_blocks_nothing(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let endless = || Stdin::Stream(Box::pin(tokio::io::repeat(b'x')));
        let request = ExecRequest::new(["true"]).with_stdin(endless());
        assert!(bench.exec(&boxed, request).await.expect("true runs").status.success());
        let request = ExecRequest::script("head -c 10", [] as [&str; 0]).with_stdin(endless());
        assert_eq!(bench.exec(&boxed, request).await.expect("head runs").ok(), "xxxxxxxxxx");
        // A terminal that nobody types at must not hold a command that does not read.
        let (held, silent) = stdin_pipe();
        let request = ExecRequest::new(["true"]).with_stdin(silent);
        assert!(bench.exec(&boxed, request).await.expect("true runs").status.success());
        drop(held);
    })
    .await;
}

/// Both streams arrive byte for byte, each in its order, to the last byte.
pub async fn streams_stay_apart(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let script =
            "i=0; while [ $i -lt 500 ]; do echo \"out $i\"; echo \"err $i\" >&2; i=$((i+1)); done; printf last";
        let ran = bench.script(&boxed, script, []).await;
        let lines = |word: &str| (0..500).map(|index| format!("{word} {index}\n")).collect::<String>();
        assert_eq!(ran.stderr, lines("err"));
        assert_eq!(ran.ok(), lines("out") + "last");
        let request = ExecRequest::script("printf '\\000\\377\\r\\n\\000'", [] as [&str; 0]);
        let mut sink = super::sinks::Keep::default();
        bench.exec_into(&boxed, request, &mut sink).await.expect("printf runs");
        assert_eq!(sink.stdout, b"\0\xff\r\n\0");
    })
    .await;
}

/// Output is seen while the command still runs, and input reaches it then.
pub async fn output_comes_as_it_is_written(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let (mut input, stdin) = stdin_pipe();
        let script = "printf one; read a; printf \"two $a\" >&2; read b; printf \"three $b\"; cat";
        let request = ExecRequest::script(script, [] as [&str; 0]).with_stdin(stdin);
        let (sink, mut output) = forward();
        let run = bench.exec_for(&boxed, request, sink);
        let talk = async {
            output.until("one").await;
            input.write_all(b"A\n").await.expect("the command reads");
            output.until("two A").await;
            input.write_all(b"B\nrest").await.expect("the command reads");
            output.until("three B").await;
            drop(input);
            output.rest().await
        };
        let (status, all) = tokio::join!(run, talk);
        assert!(status.expect("the command ends").success());
        assert_eq!(all, "onetwo Athree Brest");
    })
    .await;
}

/// Nothing is read ahead without bound: while the sink is busy, the command waits.
pub async fn slow_readers_slow_the_command(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        const LENGTH: u64 = 64 * 1024 * 1024;
        let boxed = bench.create().await;
        let mark = bench
            .make_workspace(&boxed)
            .await
            .join("written")
            .expect("the name is plain");
        let (reached_sender, reached) = oneshot::channel();
        let (release_sender, release) = oneshot::channel();
        let mut sink = Gate {
            reached: Some(reached_sender),
            release: Some(release),
            bytes: 0,
        };
        let script = "head -c \"$1\" /dev/zero; : > \"$2\"";
        let request = ExecRequest::script(script, [LENGTH.to_string().as_str(), mark.as_str()]);
        let mut run = Box::pin(bench.exec_into(&boxed, request, &mut sink));
        tokio::select! {
            ended = &mut run => panic!("the command ended although nobody read: {ended:?}"),
            told = reached => told.expect("output comes"),
        }
        let watch = async {
            // An unhindered command would be done long before the last of these looks.
            for _ in 0..5 {
                assert!(
                    !exists(bench, &boxed, &mark).await,
                    "the command wrote everything although nobody read"
                );
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            release_sender.send(()).expect("the sink waits");
        };
        let (status, ()) = tokio::join!(run, watch);
        assert!(status.expect("the command ends").success());
        assert_eq!(sink.bytes, LENGTH);
        assert!(exists(bench, &boxed, &mark).await);
    })
    .await;
}

async fn exists(bench: &Bench<'_>, boxed: &Boxed, path: &RemotePath) -> bool {
    bench
        .script(boxed, "test -e \"$1\"", [path.as_str()])
        .await
        .status
        .success()
}

/// 256 MiB pass through without being kept.
pub async fn big_output_needs_little_memory(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        const LENGTH: u64 = 256 * 1024 * 1024;
        const ALLOWED: u64 = 48 * 1024 * 1024;
        let boxed = bench.create().await;
        let before = resident_bytes();
        let mut sink = Count::new();
        let request = ExecRequest::new(["head", "-c", LENGTH.to_string().as_str(), "/dev/zero"]);
        let status = bench.exec_into(&boxed, request, &mut sink).await.expect("head runs");
        assert!(status.success());
        assert_eq!(sink.bytes, LENGTH);
        assert!(sink.zeroes_only, "other bytes came than were written");
        let grown = sink.peak_resident.saturating_sub(before);
        assert!(grown < ALLOWED, "{grown} bytes of memory for {LENGTH} bytes of output");
    })
    .await;
}

/// Fifty commands at once each get their own streams and status.
pub async fn commands_run_at_the_same_time(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let one = async |index: i32| {
            let request = ExecRequest::script(
                "read line; echo \"$line $1\"; echo \"$1\" >&2; exit \"$1\"",
                [index.to_string()],
            )
            .with_stdin(Stdin::Bytes(Bytes::from(format!("in {index}\n"))));
            let ran = bench.exec(&boxed, request).await.expect("a script can be run");
            assert_eq!(
                (ran.status.code, ran.stdout, ran.stderr),
                (index, format!("in {index} {index}\n"), format!("{index}\n"))
            );
        };
        join_all((0..50).map(one)).await;
    })
    .await;
}

/// A command starts in the directory it asks for, and not at all when there is none.
pub async fn missing_directories_are_errors(fixture: &dyn Fixture) {
    Bench::with(fixture, async |bench| {
        let boxed = bench.create().await;
        let workspace = bench.make_workspace(&boxed).await;
        let place = bench
            .exec(&boxed, ExecRequest::new(["pwd"]).in_dir(workspace.clone()))
            .await
            .expect("pwd runs");
        assert_eq!(place.ok(), format!("{workspace}\n"));
        let mark = workspace.join("ran").expect("the name is plain");
        let file = workspace.join("file").expect("the name is plain");
        bench
            .upload(&boxed, &file, b"", 0o644)
            .await
            .expect("a file can be put");
        for nowhere in [workspace.join("no-such").expect("the name is plain"), file] {
            let request = ExecRequest::new(["touch", mark.as_str()]).in_dir(nowhere.clone());
            let error = bench
                .exec(&boxed, request)
                .await
                .expect_err("there is no such directory");
            assert!(error.to_string().contains(nowhere.as_str()), "{error}");
            assert!(!error.is_cancelled());
        }
        assert!(!exists(bench, &boxed, &mark).await, "the command ran somewhere else");
    })
    .await;
}
