# shellcheck shell=bash
# Shared by what builds the guest's kernel: hack/kernel.sh and hack/kernel-cost.sh.
# Sourced after hack/lib.sh, with $hack set; the first argument is amd64 or arm64,
# the host's without. The functions want $work, which has a directory linux.
# shellcheck disable=SC2034 # its variables are for those who source it
# shellcheck disable=SC2154 # hack is the caller's
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
# Only what changes the kernel is in the hash: options in whatever order, patches
# and the steps.
kernel_hash() {
	{
		echo "$version $arch"
		grep -hE '^CONFIG_|^# CONFIG_.* is not set' "$fragments/common.config" "$fragments/$arch.config" | LC_ALL=C sort
		cat "$fragments"/patches/*.patch
		declare -f kmake unpack configure
	} | sha256sum | cut -c1-16
}
