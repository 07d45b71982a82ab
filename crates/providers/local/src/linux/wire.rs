//! What client, supervisor and the first process of a box say to each other: one JSON object per frame, descriptors along
//! with it.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crabbox_core::error::{Error, ErrorKind};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Socket of the first process of the box, below the box directory.
pub(super) const AGENT_SOCKET: &str = "agent";

/// Socket of the supervisor, below the box directory.
pub(super) const CONTROL_SOCKET: &str = "control";

/// Longest frame: arguments and environment of a command, which the kernel limits to 6 MiB.
const FRAME_LIMIT: usize = 16 * 1024 * 1024;

/// Most descriptors in one frame.
const DESCRIPTORS: usize = 3;

/// What a client asks of the first process of the box.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum AgentAsk {
    /// Run a command. Standard input, output and error come along.
    Exec {
        argv: Vec<String>,
        workdir: Option<String>,
        env: BTreeMap<String, String>,
        grace_ms: u64,
    },
    /// End the command of this connection: politely, then by force.
    Cancel,
    /// Open a regular file for reading; its descriptor comes back.
    Read { path: String },
    /// Open a new file to take the place of another; its descriptor comes back.
    Write { path: String, mode: u32 },
    /// The file of this connection is complete.
    Commit,
    /// Open a directory below `root` without following links, making what is missing; its descriptor comes back.
    Directory { root: String, below: String },
}

/// What a client asks of the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum ControlAsk {
    /// End the box and remove its directory.
    Stop,
    /// Stop every process where it is.
    Pause,
    /// Let them go on.
    Resume,
    /// Stop every process until this connection closes.
    Hold,
    /// Make what the box wrote a layer of this name, if nothing runs in the box.
    Freeze { layer: String },
    /// Start again from these layers, newest first, without what the box wrote.
    Restart {
        layers: Vec<String>,
        checkpoint: Option<String>,
    },
    /// Start again from what is in the new directory of this name below the box, without layers.
    Replace { directory: String },
}

/// An answer to either.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub(super) enum Reply {
    /// It is done; a descriptor comes along where one was asked for.
    Done,
    /// The command ended with this raw wait status.
    Exited { status: i32 },
    /// Something runs in the box, so it cannot be done now.
    Busy,
    /// The command could not be started or the file not be opened, for a reason that lies in the request.
    Refused { message: String, hint: Option<String> },
    /// The box is broken.
    Failed { message: String, hint: Option<String> },
}

impl Reply {
    pub(super) fn refused(error: &Error) -> Self {
        Self::Refused {
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }

    pub(super) fn failed(error: &Error) -> Self {
        Self::Failed {
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }

    /// The error that an answer stands for, if it is not the expected one.
    pub(super) fn into_error(self) -> Error {
        let with = |error: Error, hint: Option<String>| match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        match self {
            Self::Refused { message, hint } => with(Error::remote(message), hint),
            Self::Failed { message, hint } => with(Error::new(ErrorKind::Other, message), hint),
            other => Error::other(format!("unexpected answer from the box: {other:?}")),
        }
    }
}

/// A frame as bytes.
pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let length = u32::try_from(bytes.len() - 4)
        .ok()
        .filter(|length| *length as usize <= FRAME_LIMIT)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "arguments and environment are too long"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Sends the first part of a frame with its descriptors and returns how many bytes went.
pub(super) fn send_first(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors in one frame"));
    }
    Ok(rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}

/// Sends a whole frame over a blocking socket, or a short one over any.
pub(super) fn send<T: Serialize>(socket: impl AsFd, value: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = encode(value)?;
    let mut sent = send_first(socket.as_fd(), &bytes, descriptors)?;
    while sent < bytes.len() {
        sent += send_first(socket.as_fd(), &bytes[sent..], &[])?;
    }
    Ok(())
}

/// Bytes and descriptors that came over a socket and are not yet used.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// What one look at a socket showed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// More bytes.
    Bytes,
    /// Nothing now.
    Nothing,
    /// The other side closed.
    Closed,
}

impl Inbox {
    /// Receives once.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        let mut chunk = vec![0; 64 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let received = match received {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Received::Nothing),
            Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(error.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        self.bytes.extend_from_slice(&chunk[..received.bytes]);
        Ok(Received::Bytes)
    }

    /// Takes the next frame, if it is complete.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(header) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > FRAME_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let value = serde_json::from_slice(&self.bytes[4..4 + length])?;
        self.bytes.drain(..4 + length);
        Ok(Some(value))
    }

    /// Takes the descriptors that came so far.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_whole_and_with_their_descriptors() {
        let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let ask = AgentAsk::Read { path: "/x".repeat(10) };
        send(&left, &ask, &[reader.as_fd(), writer.as_fd()]).unwrap();
        send(&left, &AgentAsk::Commit, &[]).unwrap();
        drop(left);
        let mut inbox = Inbox::default();
        while inbox.receive(right.as_fd()).unwrap() != Received::Closed {}
        assert!(matches!(inbox.next().unwrap(), Some(AgentAsk::Read { path }) if path.len() == 20));
        assert!(matches!(inbox.next().unwrap(), Some(AgentAsk::Commit)));
        assert!(inbox.next::<AgentAsk>().unwrap().is_none());
        assert_eq!(inbox.take_descriptors().len(), 2);
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused() {
        let mut inbox = Inbox {
            bytes: vec![0xff; 8],
            descriptors: Vec::new(),
        };
        assert!(inbox.next::<AgentAsk>().is_err());
    }
}
