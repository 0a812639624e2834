#!/bin/bash
# Checks the tree without running a machine: format, vet, layers, generated
# files, go.mod, the types of what macOS will use, shell scripts. Every step
# runs, whatever the ones before it found.
#
#   hack/check.sh
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
cd "$hack/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()

# step NAME COMMAND...: the first lines of its output are shown if it fails.
step() {
	local name=$1 began=$SECONDS
	shift
	if strict "$@" >"$work/out" 2>&1; then
		say "$name: ok ($((SECONDS - began)) s)"
		return
	fi
	say "$name: FAILED"
	head -n 60 "$work/out" | sed 's/^/    /' >&2
	failed+=("$name")
}

# sources lists the files of the tree with one of the given endings, also those
# that are not committed yet.
sources() { git -c safe.directory="$(pwd -P)" ls-files -z --cached --others --exclude-standard -- "$@" | xargs -0 ls -d 2>/dev/null; }

format() {
	local wrong
	wrong=$(sources '*.go' | xargs gofmt -l)
	[ -z "$wrong" ] || { printf 'gofmt -w:\n%s\n' "$wrong"; return 1; }
}

# The agent is built with tags, C and a libcontainer of its own.
vet_agent() {
	"$hack/agent.sh" "$work/agent" &&
		CGO_ENABLED=1 go vet -modfile _output/agent.mod -tags 'seccomp netgo osusergo runc_nocriu patched' ./guest/...
}

# Too long for every run of the tests; see the Makefile.
vet_critest() { go vet -tags critest ./tests/clients; }

# What a driver for macOS stands on: everything above a driver but the monitor.
vet_darwin() {
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go vet \
		./guest/api ./libvm/bundle ./libvm/config ./libvm/plan ./libvm/undo ./libvm/vmm ./libvm/vmm/fake
}

# Built, not vetted: a test of libvm/plan uses libcontainer, which needs C.
build_arm64() { GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -buildvcs=false . ./libvm/...; }

# The version of protoc is in a comment of what it writes, and does not matter.
generated() {
	"$hack/generate.sh" "$work" || return
	local f
	for f in "$work"/*.go; do
		diff -u -I '^//.*protoc' "guest/api/$(basename "$f")" "$f" || return
	done
}

tidy() { go mod tidy -diff; }

scripts() { sources '*.sh' '.ci/run' | xargs shellcheck -x -S warning; }

step "gofmt" format
step "go vet" go vet ./...
step "go vet, the agent's tags" vet_agent
step "go vet, critest" vet_critest
step "go vet, darwin" vet_darwin
step "go build, linux/arm64" build_arm64
step "go.mod" tidy
step "layers, documents and scripts" go test -count=1 ./tests/layers ./tests/docs ./tests/hack
if command -v protoc >/dev/null; then
	step "generated files" generated
else
	say "generated files: not checked, there is no protoc (apt-get install protobuf-compiler)"
fi
if command -v shellcheck >/dev/null; then
	step "shellcheck" scripts
else
	say "shell scripts: not checked, there is no shellcheck"
fi
if [ ${#failed[@]} != 0 ]; then
	printf -v list '%s, ' "${failed[@]}"
	die "failed: ${list%, }"
fi
