//! Files to and from a box, by means of its shell.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use crabbox_core::remote::{
    ByteReader, ByteWriter, Capture, ExecRequest, OutputSink, OutputStream, RemotePath, Stdin, Upload,
};
use crabbox_core::{Error, ErrorKind, IntoError as _, Remote, Result};
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use crate::random;

/// Status by which our scripts say that the file arrived incomplete.
const INCOMPLETE: i32 = 90;
/// Status by which our scripts say that the path is not what it should be.
const WRONG_KIND: i32 = 91;

/// Parameters: destination, its directory, a temporary file beside it, mode, length or `-`. What arrives is written
/// beside the destination, so that an interrupted transfer never shows, and a short one is not taken for the whole.
const PUT: &str = r#"
if [ -d "$1" ]; then exit 91; fi
mkdir -p "$2" || exit
trap 'rm -f "$3"' EXIT
trap 'exit 129' HUP INT TERM
(umask 077 && : >"$3") && cat >"$3" || exit
length=$(wc -c <"$3") || exit
if [ "$5" = - ]; then echo $((length)); trap - EXIT; exit; fi
[ "$((length))" -eq "$5" ] || exit 90
chmod "$4" "$3" && mv -f "$3" "$1" && trap - EXIT
"#;

/// Parameters: destination, temporary file, mode. Only run when all has arrived.
const COMMIT: &str = r#"chmod "$3" "$2" && mv -f "$2" "$1" || { rm -f "$2"; exit 1; }"#;

/// Puts one file.
pub(crate) async fn upload(remote: &dyn Remote, destination: &RemotePath, upload: Upload) -> Result<()> {
    let Some(directory) = destination.parent() else {
        return Err(Error::usage(format!("not a file on the box: `{destination}`")));
    };
    let temporary = directory.join(&format!(".crabbox-{}.tmp", random::token::<8>()?))?;
    let mode = format!("{:o}", upload.mode & 0o7777);
    let sent = Arc::new(AtomicU64::new(0));
    let content: ByteReader = Box::pin(Counted {
        content: upload.content,
        sent: Arc::clone(&sent),
    });
    let length = upload
        .length
        .map_or_else(|| "-".to_owned(), |length| length.to_string());
    let parameters = [
        destination.to_string(),
        directory.to_string(),
        temporary.to_string(),
        mode.clone(),
        length,
    ];
    let request = ExecRequest::script(PUT, parameters).with_stdin(Stdin::Stream(content));
    let mut capture = Capture::new(64 << 10);
    let status = remote.exec(request, &mut capture).await?;
    let sent = sent.load(Ordering::Acquire);
    let arrived = std::str::from_utf8(capture.stdout())
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match (status.code, upload.length) {
        (0, Some(_)) => Ok(()),
        (0, None) if arrived == Some(sent) => {
            let request = ExecRequest::script(COMMIT, [destination.to_string(), temporary.to_string(), mode]);
            remote.output(request).await.map(drop)
        }
        (0, None) => {
            let request = ExecRequest::new(["rm", "-f", temporary.as_str()]);
            // The error below matters more.
            let _ = remote.output(request).await;
            Err(incomplete(destination, sent, None))
        }
        (INCOMPLETE, length) => Err(incomplete(destination, sent, length)),
        (WRONG_KIND, _) => Err(
            Error::remote(format!("a directory stands in the place of the file: `{destination}`"))
                .with_hint("remove it, or upload to another path"),
        ),
        (code, _) => {
            let stderr = String::from_utf8_lossy(capture.stderr()).into_owned();
            let reason = stderr
                .lines()
                .map(str::trim)
                .find(|line| !line.is_empty())
                .unwrap_or("no message");
            Err(Error::remote(format!(
                "upload to `{destination}` exited {code}: {reason}"
            )))
        }
    }
}

fn incomplete(destination: &RemotePath, sent: u64, length: Option<u64>) -> Error {
    let of = length.map_or_else(String::new, |length| format!(" of {length}"));
    Error::remote(format!("upload incomplete after {sent}{of} bytes: `{destination}`"))
        .with_hint("the file on the box is unchanged; upload it again")
}

/// Gets one regular file.
pub(crate) async fn download(remote: &dyn Remote, source: &RemotePath, destination: ByteWriter<'_>) -> Result<u64> {
    let request = ExecRequest::script(r#"[ -f "$1" ] || exit 91; exec cat <"$1""#, [source.to_string()]);
    let mut sink = FileSink {
        destination,
        length: 0,
        stderr: Vec::new(),
    };
    let status = remote.exec(request, &mut sink).await?;
    match status.code {
        0 => {
            sink.destination
                .flush()
                .await
                .or_error(ErrorKind::Other, || "write the downloaded file".to_owned())?;
            Ok(sink.length)
        }
        WRONG_KIND => Err(Error::remote(format!("no such regular file on the box: `{source}`"))),
        code => {
            let stderr = String::from_utf8_lossy(&sink.stderr).into_owned();
            let reason = stderr
                .lines()
                .map(str::trim)
                .find(|line| !line.is_empty())
                .unwrap_or("no message");
            Err(Error::remote(format!("download of `{source}` exited {code}: {reason}")))
        }
    }
}

/// Writes standard output to a file and keeps the beginning of standard error.
struct FileSink<'a> {
    destination: ByteWriter<'a>,
    length: u64,
    stderr: Vec<u8>,
}

#[async_trait]
impl OutputSink for FileSink<'_> {
    async fn write(&mut self, stream: OutputStream, chunk: Bytes) -> Result<()> {
        match stream {
            OutputStream::Stdout => {
                self.length += chunk.len() as u64;
                self.destination
                    .write_all(&chunk)
                    .await
                    .or_error(ErrorKind::Other, || "write the downloaded file".to_owned())
            }
            OutputStream::Stderr => {
                let room = 4096_usize.saturating_sub(self.stderr.len()).min(chunk.len());
                self.stderr.extend_from_slice(&chunk[..room]);
                Ok(())
            }
        }
    }
}

/// Counts what is read.
struct Counted {
    content: ByteReader,
    sent: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.content.as_mut().poll_read(context, buffer);
        self.sent
            .fetch_add((buffer.filled().len() - before) as u64, Ordering::AcqRel);
        polled
    }
}
