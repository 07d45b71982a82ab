//! Commands in the words of each target's shells. Pure functions; nothing is run here.

pub mod posix;
pub mod powershell;
pub mod wsl;

use std::path::Path;

/// A directory of Windows, given as [`RemotePath`](crabbox_core::remote::RemotePath) writes it or as Windows does.
pub(crate) fn windows_path(path: &str) -> String {
    let path = path.strip_prefix('/').filter(|rest| has_drive(rest)).unwrap_or(path);
    path.replace('/', "\\")
}

fn has_drive(path: &str) -> bool {
    let mut characters = path.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic()) && characters.next() == Some(':')
}

/// The last part of a local path, kept to characters that every shell leaves alone.
pub fn safe_file_name(path: &Path) -> String {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_windows() {
        assert_eq!(windows_path("/C:/crabbox/x"), "C:\\crabbox\\x");
        assert_eq!(windows_path("C:\\crabbox"), "C:\\crabbox");
        assert_eq!(windows_path("/tmp"), "\\tmp");
        assert_eq!(safe_file_name(Path::new("/a/b c;d.sh")), "b-c-d.sh");
    }
}
