//! Ending every process of a command, from a second channel.

use std::sync::Arc;
use std::time::Duration;

use crabbox_core::remote::{Capture, ExecRequest};
use crabbox_core::{Error, Result};

use crate::channel::Transport;
use crate::exec;
use crate::session::Purpose;

/// Time beyond the grace in which the box must have reported.
const REPORT: Duration = Duration::from_secs(20);

/// Parameters: the shell's process id or `unknown`, the value of the variable by which stragglers are known, tenths of a second of
/// grace. The shell of a command leads its session and process group, so whoever is in either belongs to the command,
/// and so does whoever inherited the variable. Processes that have ended but that nobody has waited for do not count.
const SCRIPT: &str = r#"
root=$1 id=$2 patience=$3
look() {
    found=
    if [ -r /proc/self/stat ]; then
        for path in /proc/[0-9]*/stat; do
            { IFS= read -r line <"$path"; } 2>/dev/null || continue
            set -f; set -- ${line##*) }; set +f
            case $1 in Z | X) continue ;; esac
            if [ "$3" = "$root" ] || [ "$4" = "$root" ]; then
                path=${path#/proc/}; found="$found ${path%/stat}"
            fi
        done
        for path in $(grep -lF "CRABBOX_EXEC_ID=$id" /proc/[0-9]*/environ 2>/dev/null); do
            path=${path#/proc/}; path=${path%/environ}
            case " $found " in *" $path "*) ;; *) found="$found $path" ;; esac
        done
    elif [ "$root" != unknown ]; then
        tree=" $root "; grown=yes
        table=$(ps -A -o pid= -o ppid= -o pgid= -o stat=)
        while [ -n "$grown" ]; do
            grown=
            while read -r pid ppid group state; do
                case $state in Z*) continue ;; esac
                case "$tree" in *" $pid "*) continue ;; esac
                if [ "$group" = "$root" ]; then tree="$tree$pid "; grown=yes; continue; fi
                case "$tree" in *" $ppid "*) tree="$tree$pid "; grown=yes ;; esac
            done <<END
$table
END
        done
        for pid in $tree; do
            case $(ps -o stat= -p "$pid") in '' | Z*) ;; *) found="$found $pid" ;; esac
        done
    fi
}
tell() { for pid in $found; do kill -"$1" "$pid" 2>/dev/null; done; }
pause() { sleep "$1" 2>/dev/null || sleep 1; }
look; tell TERM; tell CONT
turn=0
while look; [ -n "$found" ] && [ "$turn" -lt "$patience" ]; do pause 0.1; turn=$((turn + 1)); done
turn=0
while [ -n "$found" ] && [ "$turn" -lt 100 ]; do tell KILL; pause 0.05; turn=$((turn + 1)); look; done
[ -z "$found" ] || { echo "still running:$found"; exit 1; }
"#;

/// Ends a command: TERM to each of its processes, KILL to those that are left after the grace. Returns when none is.
///
/// # Errors
/// `Remote`, with `outcome_unknown`, when the box cannot be reached or a process cannot be ended.
pub(crate) async fn terminate(
    transport: &Arc<dyn Transport>,
    pid: Option<u32>,
    id: &str,
    grace: Duration,
) -> Result<()> {
    let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
    let tenths = grace.as_millis().div_ceil(100);
    let request =
        ExecRequest::script(SCRIPT, [pid, id.to_owned(), tenths.to_string()]).with_timeout(Some(grace + REPORT));
    let mut capture = Capture::new(64 << 10);
    let status = Box::pin(exec::run(transport, request, &mut capture, grace, Purpose::Control)).await;
    let failed = |why: String| {
        Error::remote(format!("processes of the command may still run on the box: {why}"))
            .with_hint("end them by hand, or give the box back")
            .with_facts(|facts| facts.outcome_unknown = true)
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => {
            let (stdout, stderr) = (
                String::from_utf8_lossy(capture.stdout()),
                String::from_utf8_lossy(capture.stderr()),
            );
            Err(failed(format!("{} {}", stdout.trim(), stderr.trim())))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}
