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
# shellcheck source=hack/kernel-lib.sh
. "$hack/kernel-lib.sh" "${1:-}"

# An option whose dependency is missing vanishes without a word: ask for each.
lost() {
	awk 'NR == FNR { if (/^CONFIG_/) { is[substr($0, 1, index($0, "=") - 1)] = $0 } next }
		/^CONFIG_/ { o = substr($0, 1, index($0, "=") - 1); if (is[o] != $0) print "  " $0 (o in is ? "   (is " is[o] ")" : "") }
		/^# CONFIG_[A-Z0-9_]+ is not set/ { if ($2 in is) print "  " $0 "   (is " is[$2] ")" }' \
		"$work/linux/.config" "$work/wanted"
}

hash=$(kernel_hash)
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
