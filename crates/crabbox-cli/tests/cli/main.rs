//! The real binary, run the way users run it.

mod grammar;
mod help;
mod init;
mod support;
