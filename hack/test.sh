#!/bin/bash
# Runs all tests and says at the end what was skipped and why, what failed with
# the end of its output, and how many there were (hack/summary).
#
#   hack/test.sh [PACKAGE...]   default: everything
#
# Templates that were not there before are removed at the end.
#
# Packages run two at a time. The log of everything is _output/test.log.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
cd "$hack/.."
[ "$(id -u)" = 0 ] || die "the tests mount file systems and must be run as root" "sudo make test"
mkdir -p _output
go build -buildvcs=false -o _output/summary ./hack/summary
runm=_output/bin/runm
templates() { if [ -x "$runm" ]; then "$runm" template list 2>/dev/null | awk 'NR > 1 { print $1 }'; fi; }
before=$(templates || true) # a store that is refused has none
# builders are those of this build that still make one; others' are not waited for.
builders() {
	for pid in $(pgrep -x runm-template); do
		[ "/proc/$pid/exe" -ef "$runm" ] && return 0
	done
	return 1
}
tidy() {
	local key n=0
	while builders && [ "$n" -lt 120 ]; do sleep 1; n=$((n + 1)); done
	for key in $(templates || true); do
		case " ${before//$'\n'/ } " in
		*" $key "*) ;;
		*) "$runm" template remove "$key" || true ;; # another may have been faster
		esac
	done
}
verbose=()
if [ -t 1 ]; then verbose=(-v); fi
rc=0
go test -json -count=1 -p 2 -timeout 40m "${@:-./...}" 2>&1 | _output/summary "${verbose[@]}" _output/test.log || rc=$?
tidy
if [ "$rc" != 0 ]; then say "the whole log is _output/test.log"; fi
exit "$rc"
