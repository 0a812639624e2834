#!/bin/bash
# Runs all tests and says at the end what passed, failed and was skipped and why.
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
log=_output/test.log
rc=0
began=$SECONDS
go test -v -count=1 -p 2 -timeout 40m "${@:-./...}" >"$log" 2>&1 &
pid=$!
if [ -t 1 ]; then
	tail -f --pid="$pid" "$log" | grep --line-buffered -E '^(ok|FAIL|---|panic)' || true
else
	tail -f --pid="$pid" "$log" | grep --line-buffered -E '^(ok|FAIL|panic)' || true
fi
wait "$pid" || rc=$?
passed=$(grep -cE '^ *--- PASS' "$log" || true)
failed=$(grep -cE '^ *--- FAIL' "$log" || true)
skipped=$(grep -cE '^ *--- SKIP' "$log" || true)
if [ "$rc" != 0 ]; then
	echo "--- what failed:"
	grep -nE '^ *--- FAIL|^FAIL|^panic' "$log" || true
	echo "--- the whole log is $log; of each failure:"
	awk '/^=== RUN/ { n = 0 } { buf[n++] = $0 }
		/^ *--- FAIL/ { for (i = (n > 80 ? n - 80 : 0); i < n; i++) print buf[i]; n = 0 }' "$log" | tail -n 400
fi
if [ "$skipped" != 0 ]; then
	echo "--- skipped:"
	grep -E -A2 '^ *--- SKIP' "$log" | grep -vE '^--$' || true
fi
if [ "$rc" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi # it did not build
echo "--- in $((SECONDS - began)) s"
echo "$passed passed, $failed failed, $skipped skipped"
exit "$rc"
