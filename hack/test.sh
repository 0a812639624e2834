#!/bin/bash
# Runs all tests and says at the end what was skipped and why, what failed with
# the end of its output, and how many there were (hack/summary).
#
#   hack/test.sh [PACKAGE...]   default: everything
#
# Packages run two at a time. The log of everything is _output/test.log.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
cd "$hack/.."
[ "$(id -u)" = 0 ] || die "the tests mount file systems and must be run as root" "sudo make test"
mkdir -p _output
go build -o _output/summary ./hack/summary
verbose=()
if [ -t 1 ]; then verbose=(-v); fi
rc=0
go test -json -count=1 -p 2 -timeout 40m "${@:-./...}" 2>&1 | _output/summary "${verbose[@]}" _output/test.log || rc=$?
if [ "$rc" != 0 ]; then say "the whole log is _output/test.log"; fi
exit "$rc"
