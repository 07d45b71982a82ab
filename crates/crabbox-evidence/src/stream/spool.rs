//! The start of a stream, kept on disk in case a failure bundle needs it.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};

/// Bytes that are kept of a stream.
pub const SPOOL_LIMIT_BYTES: u64 = 16 << 20;

/// An unnamed temp file that nobody else can open, and that vanishes with the process.
#[derive(Debug, Default)]
pub struct Spool {
    file: Option<File>,
    len: u64,
    full: bool,
}

impl Spool {
    /// Takes a chunk; beyond the limit, one note takes the place of the rest.
    ///
    /// # Errors
    ///
    /// Those of the temp file.
    pub fn push(&mut self, chunk: &[u8]) -> io::Result<()> {
        if self.full || chunk.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        let room = usize::try_from(SPOOL_LIMIT_BYTES - self.len).unwrap_or(usize::MAX);
        let kept = &chunk[..chunk.len().min(room)];
        file.write_all(kept)?;
        self.len += kept.len() as u64;
        if kept.len() < chunk.len() {
            self.full = true;
            let note = format!("\n[crabbox: truncated after {SPOOL_LIMIT_BYTES} bytes]\n");
            file.write_all(note.as_bytes())?;
            self.len += note.len() as u64;
        }
        Ok(())
    }

    /// Bytes in the file, the note included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing arrived.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads from the start.
    ///
    /// # Errors
    ///
    /// Those of the temp file.
    pub fn into_reader(self) -> io::Result<Box<dyn Read + Send>> {
        let Some(mut file) = self.file else {
            return Ok(Box::new(io::empty()));
        };
        file.rewind()?;
        Ok(Box::new(file))
    }
}
