#!/bin/bash
# Builds the guest's process 1, static and with libseccomp, from the module's
# runc with the patches of guest/patches on top.
#
#   hack/agent.sh OUTPUT [amd64|arm64]
#
# Without an architecture it is the host's. An amd64 host builds for arm64 after
# hack/deps.sh --arm64.
#
# The patched copy of the module takes its place for this build alone (go build
# -modfile); a patch that no longer applies fails the build.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
[ $# = 1 ] || [ $# = 2 ] || die "where does the agent go?" "hack/agent.sh _output/agent [amd64|arm64]"
case $1 in
/*) out=$1 ;;
*) out=$PWD/$1 ;;
esac
cd "$hack/.."
export GOARCH=${2:-$(go env GOHOSTARCH)}
if [ "$GOARCH" != "$(go env GOHOSTARCH)" ]; then
	[ "$GOARCH" = arm64 ] && [ -d "$CACHE/arm64" ] ||
		die "the agent is not built for $GOARCH here" "hack/deps.sh --arm64 prepares an amd64 host for arm64"
	export CC=aarch64-linux-gnu-gcc PKG_CONFIG_SYSROOT_DIR=$CACHE/arm64
	export PKG_CONFIG_LIBDIR=$CACHE/arm64/usr/lib/aarch64-linux-gnu/pkgconfig
fi
module=github.com/opencontainers/runc
go mod download "$module"
mkdir -p _output
exec 9>_output/.agent.lock
flock 9 # tests build it too, at the same time
source=$(go list -m -f '{{.Dir}}' "$module")
copy=_output/runc
# Made anew when the module or a patch changes.
want=$(cat guest/patches/runc-*.patch | sha256sum | cut -c1-16)-$(basename "$source")
if [ "$(cat $copy.version 2>/dev/null || true)" != "$want" ]; then
	rm -rf $copy $copy.version
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
CGO_ENABLED=1 go build -trimpath -buildvcs=false -modfile _output/agent.mod \
	-tags 'seccomp netgo osusergo runc_nocriu patched' -ldflags '-s -w -extldflags -static' \
	-o "$out" ./guest/cmd/agent
