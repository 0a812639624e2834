#!/bin/bash
# Builds the guest's process 1, static and with libseccomp, from the module's
# runc with the patches of guest/patches on top.
#
#   hack/agent.sh OUTPUT
#
# The patched copy of the module takes its place for this build alone (go build
# -modfile); a patch that no longer applies fails the build.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
cd "$hack/.."
[ $# = 1 ] || die "one argument, where the agent goes" "hack/agent.sh _output/agent"
out=$1
module=github.com/opencontainers/runc
go mod download "$module"
source=$(go list -m -f '{{.Dir}}' "$module")
copy=_output/runc
# Made anew when the module or a patch changes.
want=$(cat guest/patches/runc-*.patch | sha256sum | cut -c1-16)-$(basename "$source")
if [ "$(cat $copy.version 2>/dev/null || true)" != "$want" ]; then
	rm -rf $copy $copy.version
	mkdir -p _output
	cp -r "$source" $copy
	chmod -R u+w $copy
	for patch in guest/patches/runc-*.patch; do
		patch --quiet --forward --no-backup-if-mismatch -d $copy -p1 <"$patch" ||
			die "$patch does not apply to $source" "write it again for this version"
	done
	echo "$want" >$copy.version
fi
sed '$a replace '"$module"' => ./'"$copy" go.mod >_output/agent.mod
cp go.sum _output/agent.sum
CGO_ENABLED=1 go build -trimpath -modfile _output/agent.mod \
	-tags 'seccomp netgo osusergo runc_nocriu' -ldflags '-s -w -extldflags -static' \
	-o "$out" ./guest/cmd/agent
