//! Commands as children.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use crabbox_core::error::{Error, Result};
use crabbox_core::remote::{ExecRequest, ExecStatus, OutputSink, OutputStream, Stdin};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};

use super::Defect;
use super::backend::Boxes;

pub(super) async fn run(
    boxes: &Boxes,
    id: &str,
    request: ExecRequest,
    output: &mut dyn OutputSink,
) -> Result<ExecStatus> {
    if request.cancel.is_cancelled() && !boxes.is(Defect::CancelIgnored) {
        return Err(Error::cancelled("cancelled before it began"));
    }
    let directory = request
        .workdir
        .as_ref()
        .map_or_else(|| boxes.home(id), |path| path.as_str().into());
    if !directory.is_dir() {
        return Err(Error::remote(format!(
            "no such directory on the box: `{}`",
            directory.display()
        )));
    }
    let mut argv = request.argv.clone();
    if boxes.is(Defect::ArgumentsThroughShell) {
        argv = vec!["sh".into(), "-c".into(), argv.join(" ")];
    }
    if boxes.is(Defect::SecretsInArguments) {
        let assignments: Vec<String> = request
            .env
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let wrapper = ["sh", "-c", "assignments=$1; shift; \"$@\"; exit $?", "sh"].map(str::to_owned);
        argv = wrapper.into_iter().chain([assignments.join(" ")]).chain(argv).collect();
    }
    let mut command = Command::new(&argv[0]);
    if !boxes.is(Defect::EnvironmentLeaks) {
        command.env_clear();
    }
    let child = command
        .args(&argv[1..])
        .current_dir(&directory)
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", boxes.home(id))
        .env("PLAIN_BOX", boxes.home(id))
        .envs(&request.env)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(cause) => return not_started(&request.argv[0], &cause, output).await,
    };
    let leader = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    let feeding = tokio::spawn(feed(child.stdin.take().unwrap(), request.stdin));
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let deadline = tokio::time::sleep(request.timeout.unwrap_or(Duration::from_secs(3600)));
    tokio::pin!(deadline);
    let mut ended = None;
    let mut hoard = Vec::new();
    let result = loop {
        let chunk = tokio::select! {
            biased;
            () = request.cancel.cancelled(), if !boxes.is(Defect::CancelIgnored) => break Err(Error::cancelled("cancelled")),
            () = &mut deadline => break Err(Error::cancelled("time has run out")),
            chunk = read(&mut stdout), if stdout.is_some() => (OutputStream::Stdout, chunk),
            chunk = read(&mut stderr), if stderr.is_some() => (OutputStream::Stderr, chunk),
            status = child.wait(), if ended.is_none() => {
                ended = Some(status.unwrap());
                continue;
            }
            // Whoever was left behind with a stream is not waited for.
            () = tokio::time::sleep(Duration::from_millis(200)), if ended.is_some() => break Ok(()),
            else => break Ok(()),
        };
        let (stream, chunk) = match chunk {
            (stream, Some(chunk)) if boxes.is(Defect::StreamsMerged) => {
                let _ = stream;
                (OutputStream::Stdout, chunk)
            }
            (stream, Some(chunk)) => (stream, chunk),
            (OutputStream::Stdout, None) => {
                stdout = None;
                continue;
            }
            (OutputStream::Stderr, None) => {
                stderr = None;
                continue;
            }
        };
        if boxes.is(Defect::OutputBuffered) {
            hoard.push((stream, chunk));
        } else if let Err(error) = output.write(stream, chunk).await {
            break Err(error);
        }
    };
    for (stream, chunk) in hoard {
        output.write(stream, chunk).await?;
    }
    if boxes.is(Defect::WaitsForStdin) {
        feeding.await.unwrap();
    } else {
        feeding.abort();
    }
    if let Err(error) = result {
        let ending = if boxes.is(Defect::CancelPoliteOnly) {
            Signal::TERM
        } else {
            Signal::KILL
        };
        if boxes.is(Defect::CancelEndsLeaderOnly) {
            rustix::process::kill_process(leader, ending).unwrap();
        } else {
            rustix::process::kill_process_group(leader, ending).unwrap();
        }
        if !boxes.is(Defect::CancelPoliteOnly) {
            child.wait().await.unwrap();
            while rustix::process::test_kill_process_group(leader).is_ok() && !boxes.is(Defect::CancelEndsLeaderOnly) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        return Err(error);
    }
    let status = match ended {
        Some(status) => status,
        None => child.wait().await.unwrap(),
    };
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    Ok(match signal {
        _ if boxes.is(Defect::StatusLost) => ExecStatus::exited(i32::from(!status.success())),
        Some(_) if boxes.is(Defect::SignalsUnknown) => ExecStatus::exited(255),
        Some(signal) => ExecStatus::signalled(signal),
        None => ExecStatus::exited(status.code().unwrap()),
    })
}

async fn not_started(program: &str, cause: &std::io::Error, output: &mut dyn OutputSink) -> Result<ExecStatus> {
    let line = format!("{program}: {cause}\n");
    output.write(OutputStream::Stderr, Bytes::from(line)).await?;
    let exists = cause.kind() != std::io::ErrorKind::NotFound && Path::new(program).exists();
    Ok(ExecStatus::exited(if exists { 126 } else { 127 }))
}

async fn read<R: AsyncRead + Unpin>(stream: &mut Option<R>) -> Option<Bytes> {
    let mut chunk = vec![0; 64 * 1024];
    let length = stream.as_mut()?.read(&mut chunk).await.unwrap_or(0);
    chunk.truncate(length);
    (length > 0).then(|| Bytes::from(chunk))
}

async fn feed(mut pipe: ChildStdin, stdin: Stdin) {
    // A command need not read its input.
    let _fed = match stdin {
        Stdin::Empty => Ok(()),
        Stdin::Bytes(bytes) => pipe.write_all(&bytes).await,
        Stdin::Stream(mut stream) => tokio::io::copy(&mut stream, &mut pipe).await.map(|_| ()),
    };
}
