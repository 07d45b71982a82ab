//! Windows PowerShell.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{posix, windows_path};

/// Longest command that the server of Windows takes in one line; `cmd.exe` cuts longer ones off.
pub const LONGEST_LINE: usize = 8000;

/// How PowerShell is started everywhere.
const PROGRAM: &str = "powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass";

/// Progress records would come out on standard error as XML.
const QUIET: &str = "$ProgressPreference = 'SilentlyContinue'\n";

/// Puts text in single quotes.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The line that runs a script: its UTF-16 in base64, which no shell on the way changes.
pub fn encoded(script: &str) -> String {
    let bytes: Vec<u8> = format!("{QUIET}{script}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    format!("{PROGRAM} -EncodedCommand {}", BASE64.encode(bytes))
}

/// A line as it is when it starts PowerShell already, and otherwise [`encoded`].
pub fn line(text: &str) -> String {
    if text.starts_with("powershell.exe ") || text.starts_with("powershell ") {
        text.to_owned()
    } else {
        encoded(text)
    }
}

/// The script that runs a program with its arguments in a directory.
pub fn run_argv(workdir: Option<&str>, env: &BTreeMap<String, String>, argv: &[String]) -> String {
    let words: Vec<String> = argv.iter().map(|word| quote(word)).collect();
    format!("{}& {}\nexit $LASTEXITCODE\n", prelude(workdir, env), words.join(" "))
}

/// The script that runs PowerShell text in a directory.
pub fn run_script(workdir: Option<&str>, env: &BTreeMap<String, String>, script: &str) -> String {
    format!(
        "{}$global:LASTEXITCODE = 0\n{script}\nif (-not $?) {{ if ($LASTEXITCODE) {{ exit $LASTEXITCODE }}; exit 1 }}\nexit $LASTEXITCODE\n",
        prelude(workdir, env)
    )
}

fn prelude(workdir: Option<&str>, env: &BTreeMap<String, String>) -> String {
    let mut script = String::from("$ErrorActionPreference = 'Stop'\n");
    for (name, value) in env.iter().filter(|(name, _)| posix::is_name(name)) {
        let _ = writeln!(script, "$env:{name} = {}", quote(value));
    }
    if let Some(workdir) = workdir {
        let _ = writeln!(script, "Set-Location -LiteralPath {}", quote(&windows_path(workdir)));
    }
    script.push_str("$ErrorActionPreference = 'Continue'\n");
    script
}

/// A script that is too long for a line travels on standard input: the line to run, and what to write before the
/// program's own input. The launcher reads exactly the script's bytes, so that the rest of the input stays for the
/// program, writes them to a temporary file with a byte order mark, runs it, deletes it, and exits as it did.
pub fn over_stdin(script: &str) -> (String, Vec<u8>) {
    let bytes = format!("{QUIET}{script}").into_bytes();
    let launcher = format!(
        r"$ErrorActionPreference = 'Stop'
$stdin = [Console]::OpenStandardInput()
$bytes = New-Object byte[] {length}
$seen = 0
while ($seen -lt {length}) {{
    $read = $stdin.Read($bytes, $seen, {length} - $seen)
    if ($read -le 0) {{ exit 125 }}
    $seen += $read
}}
$path = Join-Path ([IO.Path]::GetTempPath()) ('crabbox-' + [Guid]::NewGuid().ToString('N') + '.ps1')
try {{
    $text = (New-Object Text.UTF8Encoding $false).GetString($bytes)
    [IO.File]::WriteAllText($path, $text, (New-Object Text.UTF8Encoding $true))
    & {PROGRAM} -File $path
    $code = $LASTEXITCODE
}} finally {{
    Remove-Item -LiteralPath $path -Force -ErrorAction SilentlyContinue
}}
exit $code
",
        length = bytes.len()
    );
    (encoded(&launcher), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(line: &str) -> String {
        let bytes = BASE64.decode(line.rsplit(' ').next().unwrap()).unwrap();
        let units: Vec<u16> = bytes
            .chunks(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect();
        String::from_utf16(&units).unwrap()
    }

    #[test]
    fn a_script_is_encoded_once() {
        let line_text = encoded("exit 3");
        insta::assert_snapshot!(line_text, @"powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -EncodedCommand JABQAHIAbwBnAHIAZQBzAHMAUAByAGUAZgBlAHIAZQBuAGMAZQAgAD0AIAAnAFMAaQBsAGUAbgB0AGwAeQBDAG8AbgB0AGkAbgB1AGUAJwAKAGUAeABpAHQAIAAzAA==");
        assert_eq!(decoded(&line_text), "$ProgressPreference = 'SilentlyContinue'\nexit 3");
        assert_eq!(line(&line_text), line_text);
        assert_eq!(line("exit 3"), line_text);
        assert_eq!(line("powershell -v"), "powershell -v");
    }

    #[test]
    fn scripts_of_both_kinds() {
        let env = BTreeMap::from([("A".to_owned(), "it's".to_owned()), ("B-AD".to_owned(), "x".to_owned())]);
        let argv = ["cargo".to_owned(), "it's".to_owned()];
        insta::assert_snapshot!(run_argv(Some("/C:/crabbox"), &env, &argv), @r"
        $ErrorActionPreference = 'Stop'
        $env:A = 'it''s'
        Set-Location -LiteralPath 'C:\crabbox'
        $ErrorActionPreference = 'Continue'
        & 'cargo' 'it''s'
        exit $LASTEXITCODE
        ");
        insta::assert_snapshot!(run_script(None, &BTreeMap::new(), "dir | more"), @r"
        $ErrorActionPreference = 'Stop'
        $ErrorActionPreference = 'Continue'
        $global:LASTEXITCODE = 0
        dir | more
        if (-not $?) { if ($LASTEXITCODE) { exit $LASTEXITCODE }; exit 1 }
        exit $LASTEXITCODE
        ");
    }

    #[test]
    fn a_long_script_is_framed_by_its_length() {
        let (line, bytes) = over_stdin("Write-Output 'ä'");
        let launcher = decoded(&line);
        assert!(launcher.contains(&format!("New-Object byte[] {}\n", bytes.len())));
        assert!(launcher.contains("-File $path"));
        assert!(bytes.ends_with("Write-Output 'ä'".as_bytes()));
        assert!(line.len() < LONGEST_LINE);
    }
}
