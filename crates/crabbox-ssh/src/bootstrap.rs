//! How a command gets to a box without standing in any argument list.
//!
//! The line that the box's login shell runs is always the same. It reads a script from its standard input up to a line
//! that holds a random token, and evaluates it; what follows is the command's own input. So arguments and variables are
//! never seen by other users of the box and have no limit in length, and the login shell may be any (`fish`, `csh`)
//! since the line has no character that they quote differently.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crabbox_core::remote::{ExecRequest, RemotePath};
use crabbox_core::{Error, Result};

use crate::random;
use crate::target::posix;

/// What the login shell runs.
pub(crate) const LINE: &str = concat!(
    "exec sh -c '",
    r#"_cb_n=$(printf "\012.");_cb_n=${_cb_n%.};_cb_p=;IFS= read -r _cb_t||exit 125;"#,
    r#"while IFS= read -r _cb_l;do if [ "$_cb_l" = "$_cb_t" ];then eval "$_cb_p";exit;fi;"#,
    r#"_cb_p=$_cb_p$_cb_l$_cb_n;done;exit 125'"#
);

/// Variable by which every process of a command is known, also those that left its session.
pub(crate) const ID_VARIABLE: &str = "CRABBOX_EXEC_ID";

/// One command, ready to be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Begins the lines by which the box reports.
    pub(crate) mark: String,
    /// Value of [`ID_VARIABLE`].
    pub(crate) id: String,
    /// What is written before the command's own input.
    pub(crate) preface: String,
}

impl Plan {
    /// Prepares a command. With `reports`, its shell stays to report the exit status itself.
    ///
    /// # Errors
    /// `Usage` for an empty command, a NUL byte, or a variable that no shell can export.
    pub(crate) fn new(request: &ExecRequest, reports: bool) -> Result<Self> {
        let (mark, id, token) = (random::token::<16>()?, random::token::<16>()?, random::token::<16>()?);
        let script = script(
            &request.argv,
            request.workdir.as_ref(),
            &request.env,
            &mark,
            &id,
            reports,
        )?;
        Ok(Self {
            preface: format!("{token}\n{script}{token}\n"),
            mark,
            id,
        })
    }
}

fn script(
    argv: &[String],
    workdir: Option<&RemotePath>,
    env: &BTreeMap<String, String>,
    mark: &str,
    id: &str,
    reports: bool,
) -> Result<String> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(Error::usage("no command to run on the box").with_hint("give a program and its arguments"));
    }
    let mut script = String::from("unset _cb_n _cb_p _cb_l _cb_t\n");
    let _ = writeln!(script, "export {ID_VARIABLE}={id}");
    for (name, value) in env {
        if !posix::is_name(name) {
            return Err(Error::usage(format!(
                "not a variable that a shell can export: `{}`",
                name.escape_debug()
            ))
            .with_hint("use letters, digits and `_` in the names of variables for the box"));
        }
        let _ = writeln!(script, "export {name}={}", quoted(value)?);
    }
    if let Some(workdir) = workdir {
        let _ = writeln!(
            script,
            "cd {} >/dev/null 2>&1 || {{ printf '%s nodir\\n' {mark} >&2; exit 125; }}",
            quoted(workdir.as_str())?
        );
    }
    let mut words = Vec::with_capacity(argv.len());
    for word in argv {
        words.push(quoted(word)?);
    }
    let words = words.join(" ");
    let _ = writeln!(script, "printf '%s start %s\\n' {mark} \"$$\" >&2");
    if reports {
        let _ = writeln!(
            script,
            "(exec {words})\n_cb_s=$?\nprintf '%s exit %s\\n' {mark} \"$_cb_s\" >&2\nexit \"$_cb_s\""
        );
    } else {
        let _ = writeln!(script, "exec {words}");
    }
    Ok(script)
}

fn quoted(text: &str) -> Result<String> {
    if text.contains('\0') {
        return Err(Error::usage("a NUL byte in a command for the box").with_hint("pass binary data as a file"));
    }
    Ok(posix::quote(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_same_in_every_login_shell() {
        assert_eq!(LINE.matches('\'').count(), 2);
        assert!(!LINE.contains('\n') && !LINE.contains('!') && !LINE.contains("\\\\"));
        assert!(LINE.len() < 400);
    }

    #[test]
    fn a_script_has_everything_in_its_place() {
        let env = BTreeMap::from([("A".to_owned(), "it's\ntwo lines".to_owned())]);
        let argv = ["make".to_owned(), "a b".to_owned()];
        let workdir = "/work/x".parse().unwrap();
        insta::assert_snapshot!(script(&argv, Some(&workdir), &env, "MARK", "ID", false).unwrap(), @r#"
        unset _cb_n _cb_p _cb_l _cb_t
        export CRABBOX_EXEC_ID=ID
        export A='it'\''s
        two lines'
        cd '/work/x' >/dev/null 2>&1 || { printf '%s nodir\n' MARK >&2; exit 125; }
        printf '%s start %s\n' MARK "$$" >&2
        exec 'make' 'a b'
        "#);
        insta::assert_snapshot!(script(&argv, None, &BTreeMap::new(), "MARK", "ID", true).unwrap(), @r#"
        unset _cb_n _cb_p _cb_l _cb_t
        export CRABBOX_EXEC_ID=ID
        printf '%s start %s\n' MARK "$$" >&2
        (exec 'make' 'a b')
        _cb_s=$?
        printf '%s exit %s\n' MARK "$_cb_s" >&2
        exit "$_cb_s"
        "#);
    }

    #[test]
    fn every_login_shell_runs_it_and_leaves_the_input() {
        use std::io::Write as _;
        use std::process::Stdio;

        let env = BTreeMap::from([("A".to_owned(), "x\\ny\n'z'  !".to_owned())]);
        let request = ExecRequest::script("printf '%s|%s|' \"$A\" \"$1\"; cat; exit 9", ["a\\\\b"]).with_env(env);
        for (shell, first) in [
            ("sh", ""),
            ("bash", ""),
            ("dash", ""),
            ("busybox", "sh"),
            ("zsh", ""),
            ("ksh", ""),
            ("fish", ""),
            ("tcsh", ""),
        ] {
            for reports in [false, true] {
                let plan = Plan::new(&request, reports).unwrap();
                #[expect(clippy::disallowed_methods, reason = "the shells are the oracle")]
                let mut command = std::process::Command::new(shell);
                let spawned = command
                    .args((!first.is_empty()).then_some(first))
                    .args(["-c", LINE])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn();
                let mut child = match spawned {
                    Ok(child) => child,
                    Err(cause) if shell != "sh" && cause.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(cause) => panic!("{shell}: {cause}"),
                };
                let mut stdin = child.stdin.take().unwrap();
                stdin.write_all(plan.preface.as_bytes()).unwrap();
                stdin.write_all(b"own input\n").unwrap();
                drop(stdin);
                let output = child.wait_with_output().unwrap();
                let (out, err) = (
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr),
                );
                assert_eq!(out, "x\\ny\n'z'  !|a\\\\b|own input\n", "{shell}: {err}");
                assert_eq!(output.status.code(), Some(9), "{shell}: {err}");
                assert!(err.starts_with(&format!("{} start ", plan.mark)), "{shell}: {err}");
                assert_eq!(
                    err.contains(&format!("{} exit 9\n", plan.mark)),
                    reports,
                    "{shell}: {err}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for (argv, name) in [
            (vec![], "A"),
            (vec!["a\0b"], "A"),
            (vec!["a"], "A-B"),
            (vec!["a"], ""),
            (vec![""], "A"),
        ] {
            let env = BTreeMap::from([(name.to_owned(), "v".to_owned())]);
            let request = ExecRequest::new(argv.clone()).with_env(env);
            assert!(Plan::new(&request, false).is_err(), "{argv:?} {name}");
        }
    }
}
