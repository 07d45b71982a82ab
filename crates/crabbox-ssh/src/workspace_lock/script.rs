//! What runs on the box: the protocol of the workspace lock in the words of a POSIX shell.

/// Runs under the gate. Parameters: action, key, token, TTL in seconds, longest wait for the gate in seconds, process
/// id of the witness. Prints one word. The files are those of every Crabbox client, whatever it is written in.
pub(super) const BODY: &str = r#"
action=$1 key=$2 token=$3 ttl=$4 witness=$6
LC_ALL=C; export LC_ALL
directory=$HOME/.crabbox/workspace-owners
owner=$directory/$key.owner child=$directory/$key.child
say() { echo "$1"; exit "$2"; }
now=$(date +%s) || say AMBIGUOUS 74
identity() {
    who=$(ps -o lstart= -p "$1" 2>/dev/null)
    who=${who#"${who%%[! ]*}"}; who=${who%"${who##*[! ]}"}
    state=$(ps -o stat= -p "$1" 2>/dev/null)
    if [ -z "$who" ] && [ -r "/proc/$1/stat" ]; then
        { IFS= read -r line <"/proc/$1/stat"; } 2>/dev/null || line=
        set -f; set -- ${line##*) }; set +f
        state=$1
        [ $# -lt 20 ] || { shift 19; who="start $1"; }
    fi
    case $state in Z*) who= ;; esac
}
look() {
    record=bad holder= version= expiry= more=
    [ ! -L "$owner" ] || return 0
    [ -e "$owner" ] || { record=none; return 0; }
    [ -f "$owner" ] || return 0
    { IFS= read -r version; IFS= read -r holder; IFS= read -r expiry; IFS= read -r more; } <"$owner"
    [ "$version" = v1 ] && [ -z "$more" ] && [ "${#holder}" -eq 64 ] || return 0
    case $holder in *[!0-9a-f]*) return 0 ;; esac
    case $expiry in '' | *[!0-9]* | ?????????????*) return 0 ;; esac
    if [ "$expiry" -gt "$now" ]; then record=live; else record=expired; fi
}
look_child() {
    alive=bad number= born= more=
    [ ! -L "$child" ] || return 0
    [ -e "$child" ] || { alive=no; return 0; }
    [ -f "$child" ] || return 0
    { IFS= read -r number; IFS= read -r born; IFS= read -r more; } <"$child"
    case $number in *' '*) born=${number#* }; number=${number%% *} ;; esac
    case $number in '' | 0* | *[!0-9]* | ???????????*) return 0 ;; esac
    [ -n "$born" ] && [ "${#born}" -le 96 ] && [ -z "$more" ] || return 0
    identity "$number"
    if [ "$who" = "$born" ]; then alive=yes
    elif [ -n "$who" ]; then alive=no
    elif [ -z "$state" ] && kill -0 "$number" 2>/dev/null; then alive=bad
    else alive=no; fi
}
put() {
    printf 'v1\n%s\n%s\n' "$token" "$((now + ttl))" >"$owner.$token" && mv -f "$owner.$token" "$owner" || say AMBIGUOUS 74
}
mine() {
    case $record in bad) say AMBIGUOUS 74 ;; none) say MISMATCH 75 ;; esac
    [ "$holder" = "$token" ] || say MISMATCH 75
    [ "$record" = live ] || say EXPIRED 75
}
look
case $action in
acquire)
    case $record in
    bad) say AMBIGUOUS 74 ;;
    live) [ "$holder" = "$token" ] || say BUSY 0; put; say ACQUIRED 0 ;;
    esac
    look_child
    case $alive in bad) say AMBIGUOUS 74 ;; yes) say CHILD 0 ;; esac
    before=$record; put; rm -f "$child"
    [ "$before" = none ] || say RECOVERED 0
    say ACQUIRED 0 ;;
renew) mine; put; say RENEWED 0 ;;
inspect)
    mine; look_child
    case $alive in bad) say AMBIGUOUS 74 ;; yes) say CHILD 0 ;; esac
    say OWNED 0 ;;
release)
    mine; look_child
    case $alive in bad) say AMBIGUOUS 74 ;; yes) say CHILD 75 ;; esac
    rm -f "$child" && rm -f "$owner" && rm -rf "$directory/$key.run.$token" || say AMBIGUOUS 74
    say RELEASED 0 ;;
witness)
    mine; look_child
    case $alive in bad) say AMBIGUOUS 74 ;; yes) say CHILD 75 ;; esac
    identity "$witness"
    [ -n "$who" ] || say AMBIGUOUS 74
    printf '%s\n%s\n' "$witness" "$who" >"$child.$token" && mv -f "$child.$token" "$child" || say AMBIGUOUS 74
    say STARTED 0 ;;
*) say AMBIGUOUS 74 ;;
esac
"#;

/// Takes the gate and runs the body. Parameters: the body, then its own first five. Leaves `reply` and `status`.
macro_rules! gate {
    () => {
        r#"
body=$1 action=$2 key=$3 wait=$6
umask 077
directory=$HOME/.crabbox/workspace-owners
gate=$directory/$key.gate
reply= status=74
mkdir -p "$directory" 2>/dev/null
if [ ! -d "$directory" ] || [ -L "$directory" ] || [ -L "$gate" ]; then
    reply=AMBIGUOUS
elif command -v flock >/dev/null 2>&1; then
    if { exec 9>>"$gate"; } 2>/dev/null; then
        left=$((wait * 10)); held=yes
        until flock -x -n 9; do
            [ "$left" -gt 0 ] || { held=; break; }
            sleep 0.1 2>/dev/null && left=$((left - 1)) || { sleep 1; left=$((left - 10)); }
        done
        if [ -n "$held" ]; then
            reply=$(sh -c "$body" sh "$2" "$3" "$4" "$5" "$6" "$$" </dev/null); status=$?
        fi
        exec 9>&-
    fi
elif command -v lockf >/dev/null 2>&1; then
    reply=$(lockf -s -k -t "$wait" "$gate" sh -c "$body" sh "$2" "$3" "$4" "$5" "$6" "$$" </dev/null); status=$?
else
    status=73 reply=UNLOCKABLE
fi
if [ -z "$reply" ]; then
    if [ "$action" = acquire ]; then reply=BUSY status=0; else reply=AMBIGUOUS status=74; fi
fi
"#
    };
}

/// One call of the protocol: prints the reply and exits with its status.
pub(super) const CALL: &str = concat!(gate!(), "echo \"$reply\"\nexit \"$status\"\n");

/// Runs a command as the recorded child. Further parameters: a mark for the report, then the command. The shell is
/// recorded and then becomes the command, so that the record is right from its first to its last moment. It ignores a
/// hangup: a lost client must not end it half-way, since the record says that it runs.
pub(super) const WITNESS: &str = concat!(
    gate!(),
    r#"
printf '%s %s\n' "$7" "$reply" >&2
[ "$reply" = STARTED ] || exit "$status"
shift 7
trap '' HUP
umask 022
exec "$@"
"#
);
