#!/bin/bash
# Runs a container in a microVM and shows what happened.
#
#   DEMO_ROOTFS=debian   a real Debian root file system by debootstrap (default)
#   DEMO_ROOTFS=busybox  a static busybox
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
runm=${hack%/*}/_output/bin/runm
kind=${DEMO_ROOTFS:-debian}

[ "$(id -u)" = 0 ] || die "the demo mounts files and must be run as root" "sudo make demo"

# debian_rootfs DIR: debootstrap from where this machine gets its own packages.
debian_rootfs() {
	local suite mirror
	# shellcheck source=/dev/null
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(ORIGIN)' 'Created-By: Packages' |
		awk -v s="$suite" '$2 == s && $3 == "Debian" { print $1; exit }')
	[ -n "$mirror" ] || die "no Debian mirror in apt's sources" "apt-get update, or DEMO_ROOTFS=busybox make demo"
	run "a minimal Debian $suite" "$CACHE/demo/debootstrap.log" -- \
		debootstrap --variant=minbase "$suite" "$1" "$mirror"
}

busybox_rootfs() {
	mkdir -p "$1"/{bin,proc,sys,dev,tmp,etc}
	cp /bin/busybox "$1/bin/"
	for a in sh uname cat ps ls wc; do ln -sf busybox "$1/bin/$a"; done
}

# discard DIR removes what a killed debootstrap left, proc and sys mounted in it.
discard() {
	local dir
	dir=$(realpath "$1")
	awk -v below="$dir/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r umount -l
	rm -rf --one-file-system "$dir"
}

case $kind in
debian | busybox) ;;
*) die "no such root file system: $kind" "DEMO_ROOTFS is debian or busybox" ;;
esac
bundle=$CACHE/demo/$kind
mkdir -p "$bundle"
if [ ! -d "$bundle/rootfs" ]; then
	one_at_a_time demo
	if [ ! -d "$bundle/rootfs" ]; then # else it is by the one that was waited for
		discard "$bundle/rootfs.new"
		"${kind}_rootfs" "$bundle/rootfs.new"
		mv "$bundle/rootfs.new" "$bundle/rootfs"
	fi
	exec 9>&-
fi

script='
[ ! -e /etc/os-release ] || . /etc/os-release
echo "guest:     ${PRETTY_NAME:-busybox}"
echo "kernel:    $(uname -r)"
echo "processes: $(ls -d /proc/[0-9]* | wc -l)"
exit 42'
# Made aside and renamed, for others that run the demo now.
work=$(mktemp -d "$bundle/.config.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$runm" spec --bundle "$work"
python_free_edit() { # KEY VALUE: config.json is ours, one key per line
	sed -i "s|\"$1\": .*|\"$1\": $2|" "$work/config.json"
}
python_free_edit terminal false,
# First for JSON, then for the right side of sed's s.
json=$(printf '%s' "$script" | sed 's/\\/\\\\/g; s/"/\\"/g' | tr '\n' ';' | sed 's/^;//; s/;;*/;/g; s/[\\|&]/\\&/g')
sed -i "s|^\([[:space:]]*\)\"sh\"\$|\1\"sh\", \"-c\", \"$json\"|" "$work/config.json"
mv "$work/config.json" "$bundle/config.json"

printf '\nhost:      %s\nkernel:    %s\n\n' "$(. /etc/os-release && echo "$PRETTY_NAME")" "$(uname -r)"
echo "$ runm run --bundle $bundle demo"
began=$(date +%s%N)
status=0
"$runm" run --bundle "$bundle" "demo-$$" || status=$?
took=$((($(date +%s%N) - began) / 1000000))
printf '\nexit code: %s (the script says: exit 42)\ntook:      %s.%03d s, from nothing to nothing: boot, run, power off\n' \
	"$status" $((took / 1000)) $((took % 1000))
[ "$status" = 42 ] || die "the exit code should have been 42" "run: $runm check"
echo
echo "next: make install, then runm --help; or $runm run --bundle $bundle NAME"
