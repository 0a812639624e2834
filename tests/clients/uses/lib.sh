# shellcheck shell=bash
# What the lists of uses share. Each use runs in a shell of its own, in the
# sandbox, with
#   RT, RUNTIME       runc or runm, and its absolute path; RUNM is always runm's
#   IMAGE, ARCHIVE    the image's name, and the docker archive it is loaded from
#   PAUSE             an image whose program only waits
#   SCRATCH, NAME     the sandbox's directory, and a name that nobody else has
#   BUILT             where the clients are that are built from source
set -Eeuo pipefail

fail() {
	echo "FAILED: $*$(from 2)" >&2
	exit 1
}

# A command that fails and says nothing is named too.
trap 'echo "exit status $?: $BASH_COMMAND$(from 1)" >&2' ERR

# from N says where this shell is, but for its N innermost functions.
from() {
	local i
	for ((i = $1; i < ${#FUNCNAME[@]} - 1; i++)); do
		printf ', from %s:%d' "${BASH_SOURCE[i + 1]##*/}" "${BASH_LINENO[i]}"
	done
}

# eq GOT WANT
eq() { [ "$1" = "$2" ] || fail "got '$1', want '$2'"; }

# has TEXT PART...
has() {
	local text=$1 part
	shift
	for part in "$@"; do
		case $text in *"$part"*) ;; *) fail "'$text' does not have '$part'" ;; esac
	done
}

# hasnt TEXT PART
hasnt() { case $1 in *"$2"*) fail "'$1' has '$2'" ;; esac; }

# code WANT COMMAND...: its exit status.
code() {
	local want=$1 got=0
	shift
	"$@" || got=$?
	[ "$got" = "$want" ] || fail "$*: exit status $got, want $want"
}

# code_not CODE COMMAND...: any other exit status.
code_not() {
	local not=$1 got=0
	shift
	"$@" || got=$?
	[ "$got" != "$not" ] || fail "$*: exit status $got"
}

# says TEXT COMMAND...: it fails and says so.
says() {
	local want=$1 out
	shift
	if out=$("$@" 2>&1); then fail "$* succeeded: $out"; fi
	has "$out" "$want"
}

# soon COMMAND...: it succeeds within a minute. For facts that send no
# event: a machine boots under emulation, beside others. In a shell of its own,
# whose end by fail is one more "not yet".
soon() {
	for _ in $(seq 300); do
		if ("$@") >/dev/null 2>&1; then return; fi
		sleep 0.2
	done
	fail "$*: not within 60 s: $("$@" 2>&1)"
}

# "${LINGERING[@]}" COMMAND...: it says on stdout and on stderr that the output has
# ended, and ends, with COMMAND's exit status, when both have been read: it is told
# so by two lines of stdin. lingers does that.
#
# For the clients of containerd's Go package, ctr and nerdctl: when they hear of
# an end they close the output, read or not (Delete calls cio's Cancel), so that on
# a busy machine what a short process printed is lost, with any runtime. And for
# terminals, of which Podman loses the end too (3 of 40 runs with runc).
export LINGERING=(sh -c '"$@"; code=$?; echo end of output; echo end of output >&2; read -r _; read -r _; exit $code' sh)

# lingers COMMAND...: a client's command with a process that is LINGERING. What stdin
# has is read first, whole.
lingers() {
	local told=$SCRATCH/told.$BASHPID
	mkfifo "$told"
	{
		rm "$told"
		cat >&5
		{ "$@" <&5 2>&3 3>&- 4>&- 5>&- | output >&4; } 3>&1 | output >&2
	} 4>&1 5<>"$told"
}
# output passes on what is read, but for what LINGERING says, which is answered on
# descriptor 5, and for the carriage returns of a terminal.
output() {
	perl -pe 'BEGIN { open TOLD, ">&=5" } s/\r//g; if (/^end of output$/) { syswrite TOLD, "\n"; $_ = "" }'
}

# tty COMMAND...: on a terminal of its own. What it shows is LINGERING.
tty() { lingers script -qec "$(printf '%q ' "$@")" /dev/null; }

# prints [OPTION...] -- COMMAND...: runs it in a container of its own. Where its
# output must be waited for the list has lingers in READING, the option that
# opens stdin in STDIN, and in PRINTING what stands before such a command.
export READING=() STDIN=() PRINTING=()
prints() {
	local options=()
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	"${READING[@]}" run --rm "${STDIN[@]}" "${options[@]}" "$IMAGE" "${PRINTING[@]}" "${@:2}"
}

# patience is a part of containerd's configuration: on a busy machine a shim may need
# longer to be found again after a restart, and what is left of a killed one longer
# to be removed, than the 5 s after which containerd forgets them.
patience() {
	cat <<-EOF
		[timeouts]
		"io.containerd.timeout.shim.cleanup" = "60s"
		"io.containerd.timeout.shim.load" = "60s"
		"io.containerd.timeout.task.state" = "60s"
	EOF
}

# daemon NAME COMMAND...: in the background, its log beside it.
daemon() {
	local name=$1
	shift
	setsid "$@" </dev/null >"$SCRATCH/$name.log" 2>&1 &
	echo $! >"$SCRATCH/$name.pid"
}

# gone NAME [SIGNAL]: asks the daemon to end, or kills it, and waits for it.
gone() {
	local pid
	pid=$(cat "$SCRATCH/$1.pid")
	kill -"${2-TERM}" "$pid"
	tail --pid="$pid" -f /dev/null
}

# serves HOST[:PORT] TEXT: a web server's page is that.
serves() { [ "$(fetch "$1")" = "$2" ]; }

# fetch HOST[:PORT]: the page of a web server. (The wget of busybox-static
# crashes where the host's libraries for names are.)
fetch() {
	local port=80 page
	case $1 in *:*) port=${1#*:} ;; esac
	page=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET / HTTP/1.0\r\n\r\n" >&3 && cat <&3' "${1%:*}" "$port") || return
	has "$page" '200 OK'
	printf '%s\n' "${page##*$'\n'}"
}
