# shellcheck shell=bash
# Shared by the scripts of hack/: where the cache is, and how they talk. All
# talk goes to stderr, so that stdout can carry a result.

# Everything that is built or fetched once per machine, outside the tree.
CACHE=${RUNM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/runm}
export CACHE

prog=${0##*/}

say() { printf '%s: %s\n' "$prog" "$*" >&2; }

# die MESSAGE [HINT]
die() {
	say "error: $1"
	if [ $# -gt 1 ]; then say "hint: $2"; fi
	exit 1
}

case $CACHE in
/*) ;;
*) die "the cache's directory $CACHE is no absolute path" "RUNM_CACHE or XDG_CACHE_HOME names it" ;;
esac

# progress_pct TOTAL turns a command's output lines into a percentage, for a
# command whose number of lines is known; progress_last shows the last line.
# Both keep to one line of the terminal and are used on a terminal only.
progress_pct() {
	awk -v total="$1" -v label="$2" '
		{ p = int(NR * 100 / total); if (p > 99) p = 99
		  if (p != last) { printf "\r\033[K%s %d%%", label, p; fflush(); last = p } }
		END { printf "\r\033[K" }' >&2
}
progress_last() {
	awk -v label="$1" '
		{ gsub(/[^ -~]/, " "); printf "\r\033[K%s %s", label, substr($0, 1, 76 - length(label)); fflush() }
		END { printf "\r\033[K" }' >&2
}

# strict COMMAND... runs it in a subshell that ends at the first line that fails,
# also for a caller that asks for its status: below `if`, `||` and `&&` bash
# forgets set -e, in functions too, but not in a process substitution.
strict() {
	{
		: < <(set -e; "$@" >&3 3>&-)
		wait $!
	} 3>&1
}

# run LABEL LOG [LINES] -- COMMAND... runs the command, by strict, with its output
# in LOG: one line when it is done, progress in place on a terminal, and on
# failure the end of the log.
run() {
	local label=$1 log=$2 total=0 started=$SECONDS rc=0
	shift 2
	if [ "$1" != -- ]; then total=$1; shift; fi
	shift
	if [ -t 2 ]; then
		set -o pipefail
		if [ "$total" -gt 0 ]; then
			strict "$@" </dev/null 2>&1 | tee "$log" | progress_pct "$total" "$prog: $label" || rc=$?
		else
			strict "$@" </dev/null 2>&1 | tee "$log" | progress_last "$prog: $label:" || rc=$?
		fi
	else
		say "$label ..."
		strict "$@" </dev/null >"$log" 2>&1 || rc=$?
	fi
	if [ "$rc" != 0 ]; then
		say "$label: the last lines of $log:"
		tail -n 30 "$log" >&2
		return "$rc"
	fi
	say "$label: done in $((SECONDS - started)) s"
}

# one_at_a_time NAME waits until no other script of the same cache holds NAME.
# The lock is fd 9 and ends with the script.
one_at_a_time() {
	mkdir -p "$CACHE"
	exec 9>"$CACHE/.$1.lock"
	if ! flock -n 9; then
		say "another $1 is at work, waiting for it"
		flock 9
	fi
}

# once OUT NAME, for what is built into the directory OUT: if it is there, perhaps
# by another script that was waited for, prints OUT and exits. Otherwise the
# directory work, beside it, is where to build; it ends with the script.
once() {
	local dir=${1%/*}
	if [ ! -d "$1" ]; then one_at_a_time "$2"; fi
	if [ -d "$1" ]; then
		printf '%s\n' "$1"
		exit 0
	fi
	mkdir -p "$dir"
	rm -rf "$dir/.$2".* # what a killed build left
	work=$(mktemp -d "$dir/.$2.XXXXXX")
	trap 'rm -rf "$work"' EXIT
}
