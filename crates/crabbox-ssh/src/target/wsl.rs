//! A Linux distribution inside Windows: POSIX scripts, started by PowerShell.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::powershell;

/// The line that runs a POSIX script: PowerShell writes it to a file, has `bash` of the distribution run that, deletes
/// it, and exits as it did. With a limit, the process tree is ended and the line fails when time runs out.
pub fn line(script: &str, limit: Option<Duration>) -> String {
    let data = BASE64.encode(script);
    let write = format!("[IO.File]::WriteAllBytes($path, [Convert]::FromBase64String('{data}'))");
    powershell::encoded(&wrapped(&write, limit))
}

/// The same for a script that is too long for a line: it is the whole standard input.
pub fn line_over_stdin(limit: Option<Duration>) -> String {
    let write = "$file = [IO.File]::Create($path); \
                 try { [Console]::OpenStandardInput().CopyTo($file) } finally { $file.Dispose() }";
    powershell::encoded(&wrapped(write, limit))
}

fn wrapped(write: &str, limit: Option<Duration>) -> String {
    let run = match limit {
        None => "    & wsl.exe --exec bash \"/mnt/c/ProgramData/crabbox/commands/$name\"\n    $code = $LASTEXITCODE\n"
            .to_owned(),
        Some(limit) => format!(
            "    $process = Start-Process -FilePath wsl.exe -ArgumentList '--exec', 'bash', \
             \"/mnt/c/ProgramData/crabbox/commands/$name\" -NoNewWindow -PassThru\n    \
             $null = $process.Handle\n    \
             if (-not $process.WaitForExit({milliseconds})) {{\n        \
             & taskkill.exe /T /F /PID $process.Id | Out-Null\n        \
             throw 'command took too long'\n    }}\n    $code = $process.ExitCode\n",
            milliseconds = limit.as_millis()
        ),
    };
    format!(
        "$ErrorActionPreference = 'Stop'\n\
         $directory = 'C:\\ProgramData\\crabbox\\commands'\n\
         $null = New-Item -ItemType Directory -Force -Path $directory\n\
         $name = 'cmd-' + [Guid]::NewGuid().ToString('N') + '.sh'\n\
         $path = Join-Path $directory $name\n\
         try {{\n    {write}\n{run}}} finally {{\n    \
         Remove-Item -LiteralPath $path -Force -ErrorAction SilentlyContinue\n}}\nexit $code\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_without_a_limit() {
        insta::assert_snapshot!(wrapped("WRITE", None), @r#"
        $ErrorActionPreference = 'Stop'
        $directory = 'C:\ProgramData\crabbox\commands'
        $null = New-Item -ItemType Directory -Force -Path $directory
        $name = 'cmd-' + [Guid]::NewGuid().ToString('N') + '.sh'
        $path = Join-Path $directory $name
        try {
            WRITE
            & wsl.exe --exec bash "/mnt/c/ProgramData/crabbox/commands/$name"
            $code = $LASTEXITCODE
        } finally {
            Remove-Item -LiteralPath $path -Force -ErrorAction SilentlyContinue
        }
        exit $code
        "#);
    }

    #[test]
    fn a_script_with_a_limit() {
        insta::assert_snapshot!(wrapped("WRITE", Some(Duration::from_secs(15))), @r#"
        $ErrorActionPreference = 'Stop'
        $directory = 'C:\ProgramData\crabbox\commands'
        $null = New-Item -ItemType Directory -Force -Path $directory
        $name = 'cmd-' + [Guid]::NewGuid().ToString('N') + '.sh'
        $path = Join-Path $directory $name
        try {
            WRITE
            $process = Start-Process -FilePath wsl.exe -ArgumentList '--exec', 'bash', "/mnt/c/ProgramData/crabbox/commands/$name" -NoNewWindow -PassThru
            $null = $process.Handle
            if (-not $process.WaitForExit(15000)) {
                & taskkill.exe /T /F /PID $process.Id | Out-Null
                throw 'command took too long'
            }
            $code = $process.ExitCode
        } finally {
            Remove-Item -LiteralPath $path -Force -ErrorAction SilentlyContinue
        }
        exit $code
        "#);
    }

    #[test]
    fn both_lines_are_encoded() {
        for text in [line("echo ok", None), line_over_stdin(None)] {
            assert!(text.starts_with("powershell.exe ") && text.contains(" -EncodedCommand "));
        }
    }
}
