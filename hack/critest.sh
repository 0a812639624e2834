#!/bin/bash
# Builds critest, and the ginkgo that it runs its specs in parallel with, of the
# versions in tests/clients/build/cri-tools/go.mod, once per machine. Prints
# where they are.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
source=$hack/../tests/clients/build/cri-tools
out=$CACHE/clients/critest-$({
	go version
	cat "$source"/go.mod "$hack/critest.sh"
} | sha256sum | cut -c1-16)
once "$out" critest
mkdir "$work/bin"
# A copy: ginkgo's command adds sums that nobody else needs.
cp "$source"/go.mod "$source"/go.sum "$work"
build() {
	cd "$work"
	export CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=mod
	go test -c -trimpath -ldflags '-s -w' -o bin/critest sigs.k8s.io/cri-tools/cmd/critest
	go build -trimpath -ldflags '-s -w' -o bin/ginkgo github.com/onsi/ginkgo/v2/ginkgo
}
run "build critest" "$CACHE/clients/critest.log" -- build
mv "$work/bin" "$out"
printf '%s\n' "$out"
