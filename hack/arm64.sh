#!/bin/bash
# Builds an arm64 guest on an amd64 host, for its tests: kernel, initramfs, and
# what runs them.
#
#   hack/arm64.sh DIRECTORY
#
# Leaves in DIRECTORY: Image, initramfs.cpio, qemu-system-aarch64, virtiofsd (of
# the host) and busybox (of the guest). hack/deps.sh --arm64 comes first.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
[ $# = 1 ] || die "one argument, where the guest goes" "hack/arm64.sh _output/arm64"
mkdir -p "$1"
out=$(cd "$1" && pwd)
kernel=$("$hack/kernel.sh" arm64)
"$hack/agent.sh" "$out/agent" arm64
(cd "$hack/.." && go run ./guest/image -agent "$out/agent" -o "$out/initramfs.cpio")

# first PATH... prints the first that is a program.
first() {
	local p
	for p in "$@"; do
		if [ -x "$p" ]; then
			printf '%s\n' "$p"
			return
		fi
	done
	die "none of $*" "run hack/deps.sh --arm64"
}
ln -sf "$kernel" "$out/Image"
ln -sf "$CACHE/arm64/bin/busybox" "$out/busybox"
qemu=$(first "$CACHE/qemu-arm64/bin/qemu-system-aarch64" /usr/bin/qemu-system-aarch64)
virtiofsd=$(first "$CACHE/qemu-arm64/bin/virtiofsd" /usr/libexec/virtiofsd)
ln -sf "$qemu" "$out/qemu-system-aarch64"
ln -sf "$virtiofsd" "$out/virtiofsd"
