#!/bin/bash
# Measures runm against bare machines, and runc, crun and runsc where they are
# installed. docs/performance.md explains the rows.
#
#   hack/bench.sh [-n ROUNDS] [-only cold,exec] [-json FILE] ...
set -euo pipefail
# shellcheck source=hack/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || die "the benchmark runs containers and must be run as root" "sudo make bench"
mkdir -p _output
CGO_ENABLED=0 go build -o _output/bench ./tests/bench
# shellcheck disable=SC2086 # BENCH is words
exec _output/bench -runm _output/bin/runm ${BENCH-} "$@"
