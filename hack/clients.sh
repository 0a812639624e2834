#!/bin/bash
# Installs the clients that tests/clients drives, and builds those that Debian
# does not have, or not as new: containerd, nerdctl and cri-tools of the
# versions in tests/clients/build/*/go.mod, once per machine. Prints where they
# are: DIR/containerd, DIR/nerdctl, DIR/cri-tools.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
"$hack/deps.sh" --clients
cd "$hack/../tests/clients/build"
out=$CACHE/clients/$({
	go version
	cat ./*/go.mod ./*/go.sum "$hack/clients.sh"
} | sha256sum | cut -c1-16)
once "$out" clients
build() {
	mkdir -p "$work/$1"
	(cd "$1" && CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=mod go build -trimpath -ldflags '-s -w' -o "$work/$1/" tool)
}
for client in containerd nerdctl cri-tools; do
	run "build $client" "$CACHE/clients/$client.log" -- build "$client"
done
mv "$work" "$out"
printf '%s\n' "$out"
