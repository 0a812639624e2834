# shellcheck shell=bash
# nerdctl with containerd 2.4, both built from source.
export CLI=nerdctl
export RUN_OPTIONS="--runtime $RUNTIME"
export CP_FOLLOW=-L
export PRUNE_ALL=-a
export GATEWAY=10.4.0.1
# shellcheck source=tests/clients/uses/common.sh
. "$USES/common.sh"
export READING=(lingers) STDIN=(-i) PRINTING=("${LINGERING[@]}")

PATH=$BUILT/nerdctl:$BUILT/containerd:$PATH

up() {
	mkdir -p /etc/containerd /etc/nerdctl
	cat >/etc/containerd/config.toml <<-EOF
		version = 3
		disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
		$(patience)
	EOF
	cat >/etc/nerdctl/nerdctl.toml <<-EOF
		namespace = "$NAME"
		cgroup_manager = "cgroupfs"
		cni_path = "/usr/lib/cni"
	EOF
	daemon containerd containerd
	soon nerdctl info
	nerdctl load -i "$ARCHIVE"
	nerdctl run --rm --network none "$IMAGE" true # makes what is made once
}

down() { gone containerd; }

# -- Where nerdctl is not as the others, with any runtime.

# An end of stdin that comes before the start is lost.
use_run() {
	echo in | prints -- sh -c 'head -n 1; echo out; echo err >&2' >"$SCRATCH/out" 2>"$SCRATCH/err"
	eq "$(cat "$SCRATCH/out")" "in
out"
	has "$(cat "$SCRATCH/err")" err
}

use_exit_codes() {
	code 7 run --rm "$IMAGE" sh -c 'exit 7'
	says 'ermission denied' run --rm "$IMAGE" /etc/passwd
	says 'executable file not found' run --rm "$IMAGE" no-such-program
}

use_exec_exit_codes() {
	run -d --name c1 "$IMAGE" sleep 1000
	says 'exit code 7' x sh -c 'exit 7'
	says 'ermission denied' x /etc/passwd
	says 'executable file not found' cli exec c1 no-such-program
	says 'exit code 137' x sh -c 'kill -KILL $$'
}

# Its logger may lose what comes with the end, with any runtime.
use_logs() {
	run -d --name c1 "$IMAGE" sh -c "$LISTENS; echo one; echo two >&2; seq 1000; $UNTIL_TOLD"
	soon eval '[ "$(nerdctl logs c1 2>/dev/null | md5sum)" = "$({ echo one; seq 1000; } | md5sum)" ]'
	soon eval '[ "$(nerdctl logs c1 2>&1 >/dev/null)" = two ]'
	tell c1
	eq "$(nerdctl wait c1)" 0
	eq "$(nerdctl logs c1 2>&1 >/dev/null)" two
}

# It has no OOMKilled.
use_out_of_memory() {
	run -d --name c1 -m 64m "$IMAGE" tail /dev/zero
	eq "$(nerdctl wait c1)" 137
}

use_out_of_memory_child() {
	run -d --name c1 -m 64m "$IMAGE" sh -c 'tail /dev/zero; exit 3'
	eq "$(nerdctl wait c1)" 3
}

use_events() {
	local listener
	nerdctl events --format '{{json .}}' >"$SCRATCH/events" &
	listener=$!
	soon heard
	kill $listener
}
# It does not say when it has begun to listen, so containers run until it has
# heard of all of one's life.
heard() {
	local event
	run --rm --name c1 "$IMAGE" true
	for event in containers/create tasks/start tasks/exit tasks/delete; do
		grep -q $event "$SCRATCH/events" || return 1
	done
}

# It can be bound; docs/files.md says what cannot be done with it.
use_volume_socket() {
	has "$(prints -v /run/containerd/containerd.sock:/socket -- ls -l /socket)" srw
}

use_kill_shim() {
	run -d --name c1 "$IMAGE" sleep 1000
	pkill -KILL -f "containerd-shim-runc-v2 .*-id $(inspect '{{.Id}}')" || fail 'no shim'
	soon removed
	eq "$(prints --name c1 -- echo again)" again
}
# With -f it succeeds whatever happens.
removed() {
	nerdctl rm -f c1
	[ -z "$(nerdctl ps -aq)" ]
}

use_kill_containerd() {
	run -d --name c1 "$IMAGE" sleep 1000
	gone containerd KILL
	daemon containerd containerd
	soon nerdctl info
	want '{{.State.Status}}' running
	eq "$(x echo hello)" hello
	nerdctl stop -t 0 c1
}
