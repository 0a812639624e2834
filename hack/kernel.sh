#!/bin/bash
# Builds the guest's kernel from Debian's source and the fragments and patches
# of guest/kernel, once per machine, and prints its path.
#
#   hack/kernel.sh [amd64|arm64]
#
# Leaves, in $RUNM_CACHE (default ~/.cache/runm):
#   kernel/<hash>/vmlinux   amd64: stripped ELF, entered through its PVH note
#   kernel/<hash>/Image     arm64: uncompressed
#   kernel/<hash>/config    the whole .config
#   kernel/<hash>/System.map  names for the addresses of a panic
# The hash is that of the source's version, the options, the
# patches and the steps below.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
fragments=$hack/../guest/kernel

host=$(uname -m)
case ${1:-$host} in
amd64 | x86_64) arch=amd64 karch=x86 machine=x86_64 target=vmlinux image=vmlinux lines=1960 ;;
arm64 | aarch64) arch=arm64 karch=arm64 machine=aarch64 target=Image image=arch/arm64/boot/Image lines=1900 ;;
*) die "no guest kernel for ${1:-$host}" "hack/kernel.sh [amd64|arm64]" ;;
esac
cross=
if [ "$machine" != "$host" ]; then
	cross=$machine-linux-gnu-
	command -v "${cross}gcc" >/dev/null || die "${cross}gcc not found" "apt-get install gcc-${machine//_/-}-linux-gnu"
fi

tarball=$CACHE/src/linux-source-6.12.tar.xz
if [ ! -s "$tarball" ]; then die "no kernel source at $tarball" "run hack/deps.sh"; fi
version=$(cat "$CACHE/src/linux-source-6.12.version" 2>/dev/null || echo unknown)
# Nothing of the caller's environment reaches kbuild (a make above us exports
# MAKEFLAGS, people export ARCH and LOCALVERSION), and nothing of this machine
# or this minute reaches the kernel.
kmake() {
	env -i PATH="$PATH" LC_ALL=C \
		KBUILD_BUILD_USER=runm KBUILD_BUILD_HOST=runm KBUILD_BUILD_VERSION=1 \
		KBUILD_BUILD_TIMESTAMP="$(date -u -r "$tarball" '+%Y-%m-%d %H:%M:%S UTC')" \
		make -C "$work/linux" ARCH="$karch" CROSS_COMPILE="$cross" "$@"
}
unpack() {
	local p
	tar -x -C "$work/linux" --strip-components=1 -f "$tarball" || return
	for p in "$fragments"/patches/*.patch; do
		patch -d "$work/linux" -p1 --batch --forward <"$p" || return
	done
}
configure() {
	cat "$fragments/common.config" "$fragments/$arch.config" >"$work/wanted"
	kmake KCONFIG_ALLCONFIG="$work/wanted" allnoconfig
}
# An option whose dependency is missing vanishes without a word: ask for each.
lost() {
	awk 'NR == FNR { if (/^CONFIG_/) { is[substr($0, 1, index($0, "=") - 1)] = $0 } next }
		/^CONFIG_/ { o = substr($0, 1, index($0, "=") - 1); if (is[o] != $0) print "  " $0 (o in is ? "   (is " is[o] ")" : "") }
		/^# CONFIG_[A-Z0-9_]+ is not set/ { if ($2 in is) print "  " $0 "   (is " is[$2] ")" }' \
		"$work/linux/.config" "$work/wanted"
}

# Only what changes the kernel is in the hash: options in whatever order, patches
# and the steps.
hash=$({
	echo "$version $arch"
	grep -hE '^CONFIG_|^# CONFIG_.* is not set' "$fragments/common.config" "$fragments/$arch.config" | LC_ALL=C sort
	cat "$fragments"/patches/*.patch
	declare -f kmake unpack configure
} | sha256sum | cut -c1-16)
out=$CACHE/kernel/$hash
result=$out/${image##*/}

if [ ! -e "$result" ]; then one_at_a_time kernel; fi
if [ -e "$result" ]; then
	printf '%s\n' "$result"
	exit 0
fi

mkdir -p "$CACHE/kernel"
# What a killed build left; nobody else is at work while we hold the lock.
rm -rf "$CACHE"/kernel/.build.*
work=$(mktemp -d "$CACHE/kernel/.build.XXXXXX")
log=$CACHE/kernel/build-$arch.log
trap 'rm -rf "$work"' EXIT
mkdir "$work/linux" "$work/out"

say "guest kernel $version for $arch: about 5 minutes on 2 cores, once"
run "unpack the source" "$log" -- unpack
run "configure" "$log" -- configure
gone=$(lost)
if [ -n "$gone" ]; then
	printf '%s\n' "$gone" >&2
	die "the kernel's configuration lost these options of guest/kernel" "look for their dependencies in the source's Kconfig"
fi
say "$(grep -c '=y$' "$work/linux/.config") options on"
run "compile" "$log" "$lines" -- kmake -j"$(nproc)" "$target"

cp "$work/linux/.config" "$work/out/config"
cp "$work/linux/System.map" "$work/out/"
if [ "$arch" = amd64 ]; then
	# Symbols are two thirds of the file, and QEMU reads it whole at each boot.
	"${cross}strip" -o "$work/out/vmlinux" "$work/linux/vmlinux"
else
	cp "$work/linux/$image" "$work/out/"
fi
rm -rf "$out"
mv "$work/out" "$out"
printf '%s\n' "$result"
