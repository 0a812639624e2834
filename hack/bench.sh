#!/bin/bash
# Measures runm against bare machines, and runc, crun and runsc where they are
# installed. docs/performance.md explains the rows.
#
#   hack/bench.sh [-n ROUNDS] [-only start,exec] ...   -h lists the flags
#   BENCH="-n 3 -only start" make bench                the same
set -euo pipefail
# shellcheck source=hack/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/.."
mkdir -p _output
CGO_ENABLED=0 go build -buildvcs=false -o _output/bench ./tests/bench
# Where hack/peers.sh puts what Debian does not have.
export PATH=$CACHE/peers:$PATH
# shellcheck disable=SC2086 # BENCH is words
exec _output/bench ${BENCH-} "$@"
