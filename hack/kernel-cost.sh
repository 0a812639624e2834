#!/bin/bash
# Measures what each group of the kernel's options costs: builds the amd64 kernel
# without it, boots both to an init that ends at once, and prints a Markdown
# table. A group is what stands below a heading "# -- Name: reason" of
# guest/kernel/*.config.
#
#   hack/kernel-cost.sh [-b] [GROUP...]   default: every group
#     -b   build only, for a machine that is not quiet yet
#
# Columns, each the difference to the whole kernel:
#   file          size of the stripped vmlinux, which QEMU reads at each boot
#   size          text + data + bss of it
#   blocks        that QEMU translates (-d in_asm), the least of three boots: with
#                 TCG most of a boot's time, and no other load changes them
#   instructions  executed until init ends (-icount shift=0), idle waits included
#   memory        of 512 MiB, what is not free at that moment
#   boot          clock time divided by that of the whole kernel, in turns:
#                 least by least and median by median
# Options of other groups that need the group go with it: the table names those
# groups.
#
# Builds start from the objects of the whole kernel and take half a minute to
# five. Everything is in $RUNM_CACHE/kernel-cost (3 GB) and stays: what was built
# or measured once is not again, until source, options or patches change. To
# measure a group again, remove its line from <hash>/costs.tsv. Needs root.
set -euo pipefail
hack=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=hack/lib.sh
. "$hack/lib.sh"
# shellcheck source=hack/kernel-lib.sh
. "$hack/kernel-lib.sh" amd64
rounds=7
memory=512 # MiB

build_only=
if [ "${1:-}" = -b ]; then build_only=1; shift; fi

# names prints the groups, in the order of the files.
names() { sed -n 's/^# -- \([^:]*\):.*/\1/p' "$fragments/common.config" "$fragments/amd64.config"; }
if [ $# = 0 ]; then mapfile -t groups < <(names); else groups=("$@"); fi
for group in "${groups[@]}"; do
	names | grep -qxF -e "$group" || die "no group \"$group\" in guest/kernel" "one of: $(names | paste -sd ,)"
done

work=$CACHE/kernel-cost
log=$work/log
result=$work/$(kernel_hash)
costs=$result/costs.tsv
whole='the whole kernel'
mkdir -p "$result"
one_at_a_time kernel-cost

# without GROUP prints the fragments less the group's lines.
without() {
	awk -v group="$1" '/^# -- / { name = $0; sub(/^# -- /, "", name); sub(/:.*/, "", name) }
		name != group' "$fragments/common.config" "$fragments/amd64.config"
}
# dragged GROUP prints the other groups that lost options with it, given the
# .config.
dragged() {
	without "$1" | awk 'NR == FNR { if (/^CONFIG_/) is[$0] = 1; next }
		/^# -- / { name = $0; sub(/^# -- /, "", name); sub(/:.*/, "", name) }
		/^CONFIG_/ && !($0 in is) && !(name in seen) { seen[name] = 1; print name }' "$2" - | paste -sd , | sed 's/,/, /g'
}
# fresh leaves in $work/linux the tree that the whole kernel was built in, without
# copying it: what is written there goes to $work/upper.
fresh() {
	leave
	rm -rf "$work/upper" "$work/index"
	mkdir -p "$work/linux" "$work/upper" "$work/index"
	mount -t overlay -o "lowerdir=$work/whole,upperdir=$work/upper,workdir=$work/index" overlay "$work/linux"
}
leave() { if mountpoint -q "$work/linux"; then umount -l "$work/linux"; fi; } # its make may still be ending
# compile GROUP makes the kernel without it in $work/linux; it gives way to
# everything else that runs.
compile() (
	renice -n 19 -p "$BASHPID" >/dev/null
	without "$1" >"$work/wanted"
	kmake KCONFIG_ALLCONFIG="$work/wanted" allnoconfig && kmake -j"$(nproc)" vmlinux
)
# build GROUP leaves $result/GROUP/vmlinux, and the groups that went with it, or
# nothing if there is no kernel without the group.
build() {
	local dir=$result/$1
	if [ -e "$dir/dragged" ]; then return; fi
	mkdir -p "$dir"
	fresh
	if run "without $1" "$log" -- compile "$1"; then
		strip -o "$dir/vmlinux" "$work/linux/vmlinux"
		cp "$work/linux/.config" "$dir/config"
		dragged "$1" "$dir/config" >"$work/dragged"
	else
		echo >"$work/dragged"
	fi
	mv "$work/dragged" "$dir/dragged"
	leave
}
# build_whole leaves the tree it was built in as $work/whole.
build_whole() {
	local dir=$result/$whole
	rm -rf "$work/whole" "$work/linux"
	mkdir -p "$work/linux" "$dir"
	run "unpack the source" "$log" -- unpack
	run "$whole" "$log" -- compile "" || die "the kernel does not build" "see $log"
	strip -o "$dir/vmlinux" "$work/linux/vmlinux"
	: >"$dir/dragged"
	mv "$work/linux" "$work/whole"
	kernel_hash >"$work/whole.hash"
}

# boot KERNEL KHZ QEMU... boots it to the end of its init, of a machine as runm's
# without NIC and share.
boot() {
	local kernel=$1 khz=$2
	shift 2
	timeout 30 "$qemu" -nodefaults -no-user-config -no-reboot -display none \
		-machine microvm,acpi=off,pcie=off,usb=off,graphics=off,pit=on,pic=on,rtc=on,isa-serial=on \
		-accel tcg,tb-size=64 -cpu max,erms=off,fsrm=off,fsrs=off,fsrc=off,fzrm=off -smp 1 -m "${memory}M" \
		-global virtio-mmio.force-legacy=false -kernel "$kernel" -initrd "$work/initramfs.cpio" \
		-append "console=ttyS0 quiet panic=-1 panic_print=2 reboot=t dummy.numdummies=0 8250.nr_uarts=1 swiotlb=noforce init_on_alloc=1 page_reporting.page_reporting_order=3 tsc_early_khz=$khz tsc=reliable lapic_timer_khz=1000000 noreplace-smp" \
		-serial "file:$work/console" -device virtio-serial-device,max_ports=2 \
		-object rng-builtin,id=rng -device virtio-rng-device,rng=rng \
		-device virtio-balloon-device,free-page-reporting=on "$@" </dev/null >>"$log" 2>&1 &&
		grep -q 'Attempted to kill init' "$work/console"
}
# timed KERNEL prints how long it takes, in ms.
timed() {
	local began=${EPOCHREALTIME/./}
	boot "$1" "$khz" || return
	echo $(((${EPOCHREALTIME/./} - began) / 1000))
}
# middle prints least and median of the numbers it reads.
middle() { sort -n | awk '{ v[NR] = $1 } END { printf "%d\t%d", v[1], v[int((NR + 1) / 2)] }'; }
# counted KERNEL prints, by tabs: KiB of the file, KiB of its sections, blocks,
# instructions in thousands, KiB of memory. Under icount an instruction takes a
# nanosecond of the guest's clock, and init's end is a panic, which prints it
# and, with panic_print=2, what is free.
counted() {
	local i n blocks=
	for ((i = 0; i < 3; i++)); do
		boot "$1" "$khz" -d in_asm -D "$work/asm" || return
		n=$(grep -c '^IN:' "$work/asm")
		if [ -z "$blocks" ] || [ "$n" -lt "$blocks" ]; then blocks=$n; fi
	done
	rm -f "$work/asm"
	boot "$1" 1000000 -icount shift=0,sleep=off || return
	printf '%d\t%d\t%d\t' $(($(stat -c %s "$1") / 1024)) "$(size "$1" | awk 'NR == 2 { print int($4 / 1024) }')" "$blocks"
	awk -v all=$((memory * 1024)) '
		/Attempted to kill init/ { gsub(/[][]/, ""); kilo = $1 * 1000000 }
		/^\[.*\]  free:[0-9]/ { for (i = 1; i <= NF; i++) if (split($i, f, ":") == 2 && f[1] ~ /^free(_pcp)?$/) pages += f[2] }
		END { printf "%d\t%d", kilo, all - pages * 4 }' "$work/console"
}
# measure GROUP adds its line to $costs: group, the five of counted, least and
# median of its boots, and of the whole kernel's, in ms. Only the group, if its
# kernel does not boot.
measure() {
	local i kernel=$result/$1/vmlinux counts
	if cut -f 1 "$costs" | grep -qxF -e "$1"; then return; fi
	say "boot: $1"
	: >"$work/mine"
	: >"$work/theirs"
	if [ ! -e "$kernel" ] || ! counts=$(counted "$kernel"); then
		printf '%s\n' "$1" >>"$costs"
		return
	fi
	for ((i = 0; i < rounds; i++)); do
		timed "$result/$whole/vmlinux" >>"$work/theirs"
		timed "$kernel" >>"$work/mine"
	done
	printf '%s\t%s\t%s\t%s\n' "$1" "$counts" "$(middle <"$work/mine")" "$(middle <"$work/theirs")" >>"$costs"
}

[ "$(id -u)" = 0 ] || die "trees are overlaid, which takes root" "sudo hack/kernel-cost.sh"
trap leave EXIT
trap 'exit 1' INT TERM # else a build that was ended counts as one that failed
leave
if [ "$(cat "$work/whole.hash" 2>/dev/null)" != "$(kernel_hash)" ]; then build_whole; fi
for group in "${groups[@]}"; do build "$group"; done
if [ -n "$build_only" ]; then exit; fi

qemu=$CACHE/qemu/bin/qemu-system-x86_64
if [ ! -x "$qemu" ]; then qemu=$(command -v qemu-system-x86_64) || die "no QEMU" "run hack/deps.sh"; fi
gcc -static -nostdlib -ffreestanding -fno-pie -no-pie -fno-stack-protector -mgeneral-regs-only -Os \
	-o "$work/init" "$hack/../tests/bench/guest/init.c"
(cd "$hack/.." && go run ./guest/image -agent "$work/init" -o "$work/initramfs.cpio")
khz=$(awk '/^bogomips/ { print int($3 * 500); exit }' /proc/cpuinfo)
touch "$costs"
measure "$whole"
for group in "${groups[@]}"; do measure "$group"; done

echo "| without | file, KiB | size, KiB | blocks | thousand instructions | memory, KiB | boot | goes with it |"
echo "|---|---|---|---|---|---|---|---|"
for group in "$whole" "${groups[@]}"; do
	awk -F '\t' -v OFS=' | ' -v group="$group" -v whole="$whole" -v dragged="$(cat "$result/$group/dragged")" '
		$1 == whole { for (i = 2; i <= 6; i++) base[i] = $i }
		$1 != group { next }
		NF < 6 { print "| " $1, "does not boot without", "", "", "", "", "", dragged " |"; next }
		{ row = "| " $1
		  for (i = 2; i <= 6; i++) row = row OFS ($1 == whole ? $i : sprintf("%+d", $i - base[i]))
		  print row, $1 == whole ? $7 " and " $8 " ms" : sprintf("%.2f and %.2f", $7 / $9, $8 / $10), dragged " |" }' "$costs"
done
