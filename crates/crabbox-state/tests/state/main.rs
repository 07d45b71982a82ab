//! State on a real disk, with processes that are really killed.
#![cfg(unix)]

#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod child;
#[cfg(test)]
mod claims;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod runs;
