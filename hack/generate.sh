#!/bin/bash
# Writes the generated code of guest/api from agent.proto. Needs protoc (Debian:
# protobuf-compiler); its plugins are built from the module's own versions.
#
#   hack/generate.sh [DIR]   write to DIR, an absolute path, and not into the tree
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
cd "$hack/../guest/api"
command -v protoc >/dev/null || die "protoc not found" "apt-get install protobuf-compiler"
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc
out=${1:-.}
PATH=$bin:$PATH protoc --go_out="$out" --go_opt=paths=source_relative \
	--go-ttrpc_out="$out" --go-ttrpc_opt=paths=source_relative agent.proto
