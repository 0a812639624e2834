#!/bin/bash
# Installs what runm needs to be built, run and tested on Debian 12 and 13:
# tools from the machine's own release, and QEMU, virtiofsd and the kernel's
# source from Debian 13 (QEMU 7.2 of Debian 12 cannot save a machine that has
# virtiofs, and its virtiofsd is the retired one).
#
#   hack/deps.sh             install what is missing; nothing to do takes no time
#   hack/deps.sh --upgrade   fetch QEMU, virtiofsd and the source once more
#   hack/deps.sh --clients   also what tests/clients drives; no service is started
#   hack/deps.sh --arm64     also what building and emulating an arm64 guest takes
#
# Leaves, in $RUNM_CACHE (default ~/.cache/runm):
#   qemu/                         Debian 12 only: a prefix that can be moved
#   qemu/bin/{qemu-system-*,virtiofsd}
#   src/linux-source-6.12.tar.xz  and src/linux-source-6.12.version
#   arm64/                        --arm64: libseccomp and busybox for arm64
#   qemu-arm64/                   --arm64, on Debian 12: as qemu/
set -euo pipefail
# shellcheck source=hack/lib.sh
. "$(dirname "$0")/lib.sh"

upgrade=
clients=
arm64=
case ${1-} in
"") ;;
--upgrade) upgrade=1 ;;
--clients) clients=1 ;;
--arm64) arm64=1 ;;
*) die "unknown argument $1" "hack/deps.sh [--upgrade | --clients | --arm64]" ;;
esac

linux="linux-source-6.12"
# Kernel: gcc to libelf-dev. Agent (cgo, seccomp): libseccomp-dev, pkg-config.
# Tests and the host side: the rest.
tools=(
	gcc libc6-dev make flex bison bc patch xz-utils libelf-dev
	libseccomp-dev pkg-config
	busybox-static debootstrap iproute2 nftables procps util-linux
)

arch=$(dpkg --print-architecture 2>/dev/null) ||
	die "not a Debian system" "install gcc make flex bison bc patch xz libelf, libseccomp (static), QEMU 10, virtiofsd 1.13, and put linux 6.12's source at $CACHE/src/$linux.tar.xz"
# shellcheck source=/dev/null
release=$(. /etc/os-release && printf '%s %s' "${ID-}" "${VERSION_CODENAME-}")
case $release in
"debian bookworm") private=1 ;;
"debian trixie") private= ;;
*) die "${release:-this system} is neither Debian 12 (bookworm) nor 13 (trixie)" \
	"install ${tools[*]}, QEMU 10, virtiofsd 1.13, and put linux 6.12's source at $CACHE/src/$linux.tar.xz" ;;
esac
case $arch in
amd64) qemu_pkg=qemu-system-x86 qemu=qemu-system-x86_64 ;;
arm64) qemu_pkg=qemu-system-arm qemu=qemu-system-aarch64 ;;
*) die "no guest for the architecture $arch" "amd64 and arm64 are supported" ;;
esac
# Who wants to use runm need not have them: tests/clients alone does. After a slash
# stands a program that counts instead of the package: apt would remove Docker's own
# packages (docker-ce, containerd.io) for Debian's.
if [ -n "$clients" ]; then
	tools+=(
		runc/runc containerd/containerd docker.io/dockerd docker-compose/docker-compose iptables
		podman/podman catatonit netavark aardvark-dns containernetworking-plugins
		bsdutils erofs-utils e2fsprogs
	)
	if [ -z "$private" ]; then tools+=(docker-cli/docker); fi
fi
# An arm64 machine has it all.
if [ "$arch" = arm64 ]; then arm64=; fi
if [ -n "$arm64" ]; then tools+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross); fi

wanted=("${tools[@]}")
if [ -z "$private" ]; then wanted+=("$qemu_pkg" ${arm64:+qemu-system-arm} virtiofsd); fi
# lacking prints the packages that are wanted and not there.
lacking() {
	local entry installed
	installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]%/*}" 2>/dev/null | sed -n 's/^installed //p' || true)
	for entry in "${wanted[@]}"; do
		case $'\n'$installed$'\n' in
		*$'\n'"${entry%/*}"$'\n'*) continue ;;
		esac
		if [[ $entry != */* ]] || ! command -v "${entry#*/}" >/dev/null; then printf '%s\n' "${entry%/*}"; fi
	done
}

# The answer of a second run: same script, everything still there. The stamp does
# not tell: the cache may be of another machine.
stamp=$CACHE/.deps${clients:+-clients}${arm64:+-arm64}.stamp
hash=$(cat "$0" "$(dirname "$0")/lib.sh" | sha256sum)
complete() {
	[ "$(cat "$stamp" 2>/dev/null)" = "$hash $release" ] &&
		[ -s "$CACHE/src/$linux.tar.xz" ] &&
		[ -z "$(lacking)" ] &&
		{ [ -z "$arm64" ] || [ -x "$CACHE/arm64/bin/busybox" ]; } &&
		{ [ -z "$private" ] || [ -x "$CACHE/qemu/bin/$qemu" ]; } &&
		{ [ -z "$private" ] || [ -z "$arm64" ] || [ -x "$CACHE/qemu-arm64/bin/qemu-system-aarch64" ]; }
}
if [ -z "$upgrade" ] && complete; then exit 0; fi
one_at_a_time deps
if [ -z "$upgrade" ] && complete; then exit 0; fi

work=$(mktemp -d "$CACHE/.deps.XXXXXX")
trap 'rm -rf "$work"' EXIT
export DEBIAN_FRONTEND=noninteractive

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"
	elif command -v sudo >/dev/null; then sudo --preserve-env=DEBIAN_FRONTEND -- "$@"
	else die "installing packages takes root, and there is no sudo" "as root: apt-get install ${missing[*]-}"
	fi
}

# debian_sources prints the machine's own Debian sources, one "deb" line each,
# and leaves out everybody else's: those may be unreachable, and have no part in
# this. Debian's are known by their suites, main, and their signer.
debian_sources() {
	awk -v codename="${release#* }" '
	function emit(opt, uri, suite, comps) {
		if (suite !~ "^" codename "(-updates|-security)?$" || (" " comps " ") !~ / main /) return
		if (opt ~ /signed-by=/ && opt !~ /debian-archive/) return
		line = "deb " (opt == "" ? "" : "[" opt "] ") uri " " suite " main"
		if (!(line in seen)) { seen[line] = 1; print line }
	}
	function paragraph(   i, j, n, m, u, s, opt) {
		if ((" " f["types"] " ") ~ / deb / && tolower(f["enabled"]) != "no") {
			opt = ""
			# Debian signs with keys from a package, not with one given in place.
			if (f["signed-by"] ~ /^\//) opt = "signed-by=" f["signed-by"]
			else if (f["signed-by"] != "") opt = "signed-by=inline"
			if (tolower(f["trusted"]) == "yes") opt = opt " trusted=yes"
			n = split(f["uris"], u, " "); m = split(f["suites"], s, " ")
			for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) emit(opt, u[i], s[j], f["components"])
		}
		split("", f)
	}
	FNR == 1 { paragraph() }
	/^[ \t]*#/ { next }
	FILENAME ~ /\.list$/ {
		if ($1 != "deb") next
		sub(/^[ \t]*deb[ \t]+/, ""); opt = ""
		if (match($0, /^\[[^]]*\]/)) { opt = substr($0, 2, RLENGTH - 2); sub(/^\[[^]]*\][ \t]*/, "") }
		uri = $1; suite = $2; $1 = ""; $2 = ""; emit(opt, uri, suite, $0); next
	}
	/^[ \t]*$/ { paragraph(); next }
	/^[^ \t]/ { key = tolower($1); sub(/:.*/, "", key); sub(/^[^:]*:[ \t]*/, ""); f[key] = $0; next }
	{ sub(/^[ \t]+/, " "); f[key] = f[key] $0 }
	END { paragraph() }' "$@"
}
mapfile -t files < <(find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' -o -name '*.sources' 2>/dev/null | sort)
mkdir -p "$work/none"
debian_sources "${files[@]}" </dev/null >"$work/debian.list"
[ -s "$work/debian.list" ] || die "no Debian source for ${release#* } in /etc/apt" "add one to /etc/apt/sources.list"

# -- Tools of the machine's own release.
mapfile -t missing < <(lacking)
# Only Debian's lists are renewed; the others stay as they are.
update() {
	run "package lists" "$work/update.log" -- as_root apt-get update \
		-o Dir::Etc::sourcelist="$work/debian.list" -o Dir::Etc::sourceparts="$work/none" -o APT::Get::List-Cleanup=0 ||
		die "apt-get update failed" "is the network there?"
}
# A package may start its daemon when it is installed: policy-rc.d(8) forbids it.
policy=/usr/sbin/policy-rc.d
forbid_services() {
	if [ -n "$clients" ] && [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
		as_root chmod 755 $policy
		trap 'as_root rm -f $policy; rm -rf "$work"' EXIT
	fi
}
install() {
	run "install ${missing[*]}" "$work/install.log" -- \
		as_root apt-get install -y --no-install-recommends "${missing[@]}"
}
known() { apt-cache show --no-all-versions -- "${missing[@]}" >/dev/null 2>&1; }
if [ ${#missing[@]} -gt 0 ]; then
	chmod 755 "$work" # apt reads the list as its own user
	fresh=
	known || { update; fresh=1; }
	forbid_services
	if ! install; then
		# Old lists name packages that the mirror no longer has.
		[ -z "$fresh" ] || die "apt-get install failed" "see the lines above"
		update
		install || die "apt-get install failed" "see the lines above"
	fi
fi

# private_apt DIRECTORY CODENAME ARCHITECTURE makes an apt with a state of its own
# and the machine's sources under CODENAME: it believes that nothing is installed,
# so that it resolves down to libc.
private_apt() {
	local a=$1
	mkdir -p "$a/lists/partial" "$a/archives/partial"
	: >"$a/status"
	sed "s/ ${release#* }\([ -]\)/ $2\1/" "$work/debian.list" >"$a/sources.list"
	# The machine's proxy and credentials hold here too, its hooks do not.
	apt-config dump | grep -E '^Acquire::(http|https|Retries|ForceIPv[46])' >"$a/apt.conf" || true
	cat >>"$a/apt.conf" <<-EOF
		Dir::Etc::parts "$work/none";
		Dir::Etc::main "/dev/null";
		Dir::Etc::sourcelist "$a/sources.list";
		Dir::Etc::sourceparts "$work/none";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "$work/none";
		Dir::State "$a";
		Dir::State::lists "$a/lists";
		Dir::State::status "$a/status";
		Dir::Cache "$a";
		Dir::Cache::archives "$a/archives";
		APT::Architecture "$3";
		APT::Architectures { "$3"; };
		APT::Install-Recommends "false";
		APT::Sandbox::User "root";
		Acquire::Languages "none";
	EOF
}

# -- Debian 13's packages: on Debian 13 apt knows them, on Debian 12 a private one.
fetch_apt() { apt-get "$@"; }
if [ -n "$private" ]; then
	private_apt "$work/apt" trixie "$arch"
	fetch_apt() { APT_CONFIG=$work/apt/apt.conf apt-get "$@"; }
fi
listed=
lists() {
	[ -z "$listed" ] || return 0
	listed=1
	if [ -n "$private" ]; then
		run "package lists of Debian 13" "$work/update13.log" -- fetch_apt update -o Debug::NoLocking=true ||
			die "cannot read Debian 13's package lists" "does the mirror have trixie, and does debian-archive-keyring know its keys?"
	elif ! apt-cache show "$linux" >/dev/null 2>&1; then
		update
	fi
}

kernel_source() {
	mkdir -p "$work/src" "$CACHE/src"
	run "fetch $linux" "$work/src.log" -- in_dir "$work/src" fetch_apt download "$linux" ||
		die "cannot fetch $linux"
	dpkg-deb --fsys-tarfile "$work/src/"*.deb | tar -x -C "$work/src" --strip-components=3 "./usr/src/$linux.tar.xz"
	dpkg-deb -f "$work/src/"*.deb Version >"$work/src/version"
	mv "$work/src/$linux.tar.xz" "$CACHE/src/$linux.tar.xz"
	mv "$work/src/version" "$CACHE/src/$linux.version"
}
in_dir() { (cd "$1" && shift && "$@"); }

# A wrapper starts its program through the prefix's own loader, by exec, so that
# pid, descriptors and PDEATHSIG stay the caller's. The loader is a link with
# the program's name: that is the name ps shows.
wrapper() { # NAME FIXED-ARGUMENTS
	ln -s "../lib/$loader" "$prefix/ld/$1"
	cat >"$prefix/bin/$1" <<-EOF
		#!/bin/sh
		# Made by hack/deps.sh. The prefix can be moved and copied.
		p=\$0
		case \$p in */*) ;; *) p=./\$p ;; esac
		if [ -L "\$p" ]; then p=\$(readlink -f -- "\$p"); fi
		d=\${p%/*}/..
		QEMU_MODULE_DIR=\$d/modules
		export QEMU_MODULE_DIR
		exec "\$d/ld/$1" --library-path "\$d/lib" --argv0 "\$0" "\$d/libexec/$1"$2 "\$@"
	EOF
	chmod 755 "$prefix/bin/$1"
}

# qemu_prefix NAME PACKAGE PROGRAM makes $CACHE/NAME with PROGRAM and virtiofsd.
qemu_prefix() {
	local name=$1 pkg=$2 qemu=$3 root=$work/root libs loader d f
	prefix=$work/$name
	rm -rf "$root" "$work"/apt/archives/*.deb
	run "fetch $pkg and virtiofsd" "$work/$name.log" -- \
		fetch_apt install -y --download-only --no-install-recommends -o Debug::NoLocking=true "$pkg" virtiofsd ||
		die "cannot fetch $pkg and virtiofsd from Debian 13"
	mkdir -p "$root" "$prefix"/{bin,ld,lib,libexec,modules,share}
	for d in "$work"/apt/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$d" | tar -x -C "$root" --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
	done
	libs=$(echo "$root"/usr/lib/*-linux-gnu*)
	loader=$(basename "$(echo "$libs"/ld-linux-*)")

	# Of 170 MB, the two programs, the libraries they really load, the
	# accelerators where those are modules, and the firmware of a machine that
	# is given its kernel: qboot, what it needs with ACPI, and the option ROMs.
	cp "$root/usr/bin/$qemu" "$root/usr/libexec/virtiofsd" "$prefix/libexec/"
	for f in "$libs"/qemu/accel-*.so; do
		if [ -e "$f" ]; then cp "$f" "$prefix/modules/"; fi
	done
	cp "$libs/$loader" "$prefix/lib/"
	for f in "$prefix"/libexec/*; do
		"$libs/$loader" --library-path "$libs" --list "$f"
	done | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u | xargs cp -L -t "$prefix/lib/"
	for f in qemu/qboot.rom seabios/bios-microvm.bin qemu/linuxboot_dma.bin qemu/pvh.bin qemu/kvmvapic.bin; do
		if [ -e "$root/usr/share/$f" ]; then cp "$root/usr/share/$f" "$prefix/share/"; fi
	done
	# shellcheck disable=SC2016 # for the wrapper to expand
	wrapper "$qemu" ' -L "$d/share"'
	wrapper virtiofsd ''
	"$prefix/bin/$qemu" --version >/dev/null || die "the unpacked QEMU does not start"
	"$prefix/bin/virtiofsd" --version >/dev/null || die "the unpacked virtiofsd does not start"

	# What uses the old prefix keeps its open files.
	rm -rf "$CACHE/$name.old"
	if [ -e "$CACHE/$name" ]; then mv "$CACHE/$name" "$CACHE/$name.old"; fi
	mv "$prefix" "$CACHE/$name"
	rm -rf "$CACHE/$name.old"
	say "QEMU and virtiofsd: $CACHE/$name ($(du -sh "$CACHE/$name" | cut -f1))"
}

# What an arm64 guest has from Debian, for its agent to be linked with and for
# its tests: unpacked, not installed, so that dpkg keeps its one architecture.
arm64_packages() {
	local d root=$work/arm64
	private_apt "$work/apt-arm64" "${release#* }" arm64
	fetch() { APT_CONFIG=$work/apt-arm64/apt.conf apt-get "$@"; }
	mkdir -p "$root"
	run "package lists for arm64" "$work/arm64.log" -- fetch update -o Debug::NoLocking=true &&
		run "fetch libseccomp and busybox for arm64" "$work/arm64.log" -- in_dir "$root" fetch download libseccomp-dev busybox-static ||
		die "cannot fetch libseccomp-dev and busybox-static for arm64" "does the mirror have that architecture?"
	for d in "$root"/*.deb; do
		dpkg-deb --fsys-tarfile "$d" | tar -x -C "$root" --exclude=./usr/share
		rm "$d"
	done
	rm -rf "$CACHE/arm64"
	mv "$root" "$CACHE/arm64"
}

if [ -n "$upgrade" ] || [ ! -s "$CACHE/src/$linux.tar.xz" ]; then
	lists
	kernel_source
fi
if [ -n "$private" ]; then
	# Rebuilt when the recipe changes, not with every edit of this file.
	recipe=$(declare -f qemu_prefix wrapper | sha256sum)
	want_prefix() {
		if [ -z "$upgrade" ] && [ -x "$CACHE/$1/bin/$3" ] && [ "$(cat "$CACHE/$1/.recipe" 2>/dev/null)" = "$recipe" ]; then return; fi
		lists
		qemu_prefix "$@"
		printf '%s\n' "$recipe" >"$CACHE/$1/.recipe"
	}
	want_prefix qemu "$qemu_pkg" "$qemu"
	if [ -n "$arm64" ]; then want_prefix qemu-arm64 qemu-system-arm qemu-system-aarch64; fi
fi
if [ -n "$arm64" ]; then arm64_packages; fi
printf '%s\n' "$hash $release" >"$stamp"
