#!/bin/bash
# Installs the runtimes that the benchmark puts beside runm: runc and crun from
# Debian, and gVisor's runsc, built from the module that Go's proxy has. Nothing
# else needs them.
#
#   hack/peers.sh     some minutes, once per machine
#
# Leaves $RUNM_CACHE/peers/runsc (default ~/.cache/runm/peers), where
# hack/bench.sh looks.
set -euo pipefail
# shellcheck source=hack/lib.sh
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || die "installing packages takes root" "sudo make peers"

# A commit of gVisor's branch "go", which has its generated files.
gvisor=v0.0.0-20260905035102-160fafc42237

one_at_a_time peers
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
missing=()
for p in runc crun; do
	command -v "$p" >/dev/null || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
	run "install ${missing[*]}" "$logs/apt.log" -- \
		env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" ||
		die "apt-get install failed" "apt-get update, then again"
fi
if [ ! -x "$CACHE/peers/runsc" ] || [[ $("$CACHE/peers/runsc" --version) != *"$gvisor"* ]]; then
	mkdir -p "$CACHE/peers"
	# Static, as gVisor's own releases are.
	run "build runsc" "$logs/runsc.log" -- env CGO_ENABLED=0 GOBIN="$CACHE/peers" \
		go install -trimpath -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$gvisor" gvisor.dev/gvisor/runsc@$gvisor ||
		die "runsc could not be built" "the benchmark works without it"
fi
PATH=$CACHE/peers:$PATH
for p in runc crun runsc; do say "$("$p" --version | head -n 1), $(command -v "$p")"; done
