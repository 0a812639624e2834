# shellcheck shell=bash
# containerd and its own client. The namespace is the sandbox's name: cgroups
# are /NAMESPACE/CONTAINER.
if [ "$CLIENT" = ctr2 ]; then PATH=$BUILT/containerd:$PATH; fi

ctr() { command ctr -n "$NAME" "$@"; }

up() {
	mkdir -p /etc/containerd
	# Every snapshot is a copy of this file, with a file system.
	truncate -s 16M "$SCRATCH/blank"
	mkfs.ext4 -q "$SCRATCH/blank"
	cat >/etc/containerd/config.toml <<-EOF
		version = 2
		disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
		[plugins."io.containerd.snapshotter.v1.blockfile"]
			scratch_file = "$SCRATCH/blank"
			fs_type = "ext4"
			mount_options = []
			recreate_scratch = true
		$(patience)
	EOF
	daemon containerd containerd
	soon ctr version
	ctr images import "$ARCHIVE"
	ctr images ls
}

down() { gone containerd; }

clean() {
	local c
	for c in $(ctr tasks ls -q); do
		ctr tasks kill -s KILL "$c" || true
		soon stopped "$c"
		ctr tasks rm -f "$c" || true
	done
	for c in $(ctr containers ls -q); do ctr containers rm "$c"; done
}

run() { ctr run --runc-binary "$RUNTIME" "$@"; }
status() { ctr tasks ls | awk -v c="$1" '$1 == c { print $3 }'; }
stopped() { [ "$(status "$1")" = STOPPED ] || [ -z "$(status "$1")" ]; }
export READING=(lingers)
export PRINTING=(p1 "${LINGERING[@]}") # after the image comes the container's id

x() { lingers ctr tasks exec --exec-id "x$RANDOM" "$1" "${LINGERING[@]}" "${@:2}"; }
inside() { x "$1" sh -c "$2"; }

# ends CONTAINER STATUS
ends() {
	soon stopped "$1"
	if [ "$2" = 0 ]; then eq "$(ctr tasks rm "$1" 2>&1)" ''; else has "$(ctr tasks rm "$1" 2>&1)" "exit code $2"; fi
}

use_run() {
	eq "$(prints -- echo hello)" hello
	eq "$(prints -- sh -c 'echo out; echo err >&2' 2>/dev/null)" out
	has "$(prints -- sh -c 'echo out; echo err >&2' 2>&1 >/dev/null)" err
	eq "$(ctr containers ls -q)" ""
}

use_run_exit_code() {
	code 7 run --rm "$IMAGE" c1 sh -c 'exit 7'
	code 143 run --rm "$IMAGE" c1 sh -c 'sh -c "kill -TERM \$\$"; exit $?'
}

# Not to its end: ctr itself loses one that comes before the start.
use_run_stdin() {
	eq "$(echo in | prints -- head -n 1)" in
}

use_run_many_bytes() {
	local sum
	sum=$(prints -- sh -c 'seq 1000000' | md5sum)
	eq "$sum" "$(seq 1000000 | md5sum)"
}

use_run_tty() {
	has "$(tty ctr -n "$NAME" run --rm -t --runc-binary "$RUNTIME" "$IMAGE" c1 "${LINGERING[@]}" sh -c 'tty; stty size')" /dev/pts/0
}

use_run_no_such_program() {
	says 'executable file not found' run --rm "$IMAGE" c1 no-such-program
	says 'no such file or directory' run --rm "$IMAGE" c2 /no/such/program
	says 'ermission denied' run --rm "$IMAGE" c3 /etc/passwd
}

use_detached() {
	run -d --pid-file "$SCRATCH/pid" "$IMAGE" c1 sleep 1000
	eq "$(status c1)" RUNNING
	has "$(ctr tasks ls)" "$(cat "$SCRATCH/pid")"
	has "$(ctr tasks ps c1)" "$(cat "$SCRATCH/pid")"
	ctr tasks kill -s TERM c1 # init, without a handler
	says 'failed precondition' ctr tasks rm c1
	ctr tasks kill -s KILL c1
	ends c1 137
	ctr containers rm c1
	says 'not found' ctr tasks kill c1
}

use_detached_tty() {
	tty ctr -n "$NAME" run -d -t --runc-binary "$RUNTIME" "$IMAGE" c1 sh -c 'tty >/tmp/tty; sleep 1000'
	eq "$(status c1)" RUNNING
	soon inside c1 'grep /dev/pts/0 /tmp/tty'
}

use_exec() {
	run -d "$IMAGE" c1 sleep 1000
	eq "$(x c1 echo hello)" hello
	eq "$(lingers ctr tasks exec --exec-id e2 --cwd /tmp --user 1000 c1 "${LINGERING[@]}" sh -c 'pwd; id -u')" "/tmp
1000"
	code 9 ctr tasks exec --exec-id e3 c1 sh -c 'exit 9'
	says 'executable file not found' ctr tasks exec --exec-id e4 c1 no-such-program
	has "$(tty ctr -n "$NAME" tasks exec -t --exec-id e5 c1 "${LINGERING[@]}" tty)" /dev/pts/
	ctr tasks exec -d --exec-id e6 c1 touch /dev/shm/made
	soon inside c1 'test -e /dev/shm/made'
}

use_exec_stopped() {
	run -d "$IMAGE" c1 true
	soon stopped c1
	says 'stopped' ctr tasks exec --exec-id e1 c1 true
}

use_kill_signal() {
	run -d "$IMAGE" c1 sh -c 'trap "exit 5" USR1; touch /tmp/ready; while :; do sleep 0.1; done'
	soon inside c1 'test -e /tmp/ready'
	ctr tasks kill -s USR1 c1
	ends c1 5
}

use_kill_exec() {
	run -d "$IMAGE" c1 sleep 1000
	ctr tasks exec --exec-id e1 c1 sleep 1001 &
	soon has_process c1 'sleep 1001'
	ctr tasks kill -s KILL --exec-id e1 c1
	code 137 wait $!
	eq "$(status c1)" RUNNING
}
has_process() { has "$(x "$1" ps)" "$2"; }

# Of one that sleeps: runc gives up what goes on starting processes ("unable to
# freeze", a matter of chance on cgroup v1).
use_pause_resume() {
	run -d "$IMAGE" c1 sleep 1000
	ctr tasks pause c1
	eq "$(status c1)" PAUSED
	ctr tasks resume c1
	eq "$(status c1)" RUNNING
	eq "$(x c1 echo hello)" hello
}

use_ps() {
	run -d "$IMAGE" c1 sleep 1000
	# One line for the header, and at least one with a pid of this host.
	local pid
	pid=$(ctr tasks ps c1 | awk 'NR == 2 { print $1 }')
	[ -d "/proc/$pid" ] || fail "no process $pid: $(ctr tasks ps c1)"
}

use_metrics() {
	# A shell needs three times what a variable of its holds, while that grows;
	# busybox executes a last command in its own place, and holds nothing then.
	run -d --memory-limit 67108864 "$IMAGE" c1 sh -c 'x=$(head -c 5000000 /dev/zero | tr "\0" x); sleep 1000; :'
	soon used memory.usage_in_bytes 5000000
	soon used cpuacct.usage 1000
}
# used COUNTER N: more than N.
used() { [ "$(ctr tasks metrics c1 | awk -v c="$1" '$1 == c { print $2 }')" -gt "$2" ]; }

use_limits() {
	run -d --memory-limit 67108864 --cpu-quota 50000 --cpu-period 100000 \
		--mount type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro "$IMAGE" c1 sleep 1000
	has "$(inside c1 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null')" 67108864
	has "$(inside c1 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null')" 50000
}

# When told to: a shim watches for it only after the start, and ctr does not say
# when it has begun to listen. The shim says nothing of a cgroup that is gone, so
# that its event comes before the task is removed.
use_out_of_memory() {
	command ctr -n "$NAME" events >"$SCRATCH/events" &
	run -d --memory-limit 67108864 "$IMAGE" c1 sh -c 'until [ -e /told ]; do sleep 0.1; done; exec tail /dev/zero'
	soon listened
	ctr tasks exec --exec-id e1 c1 touch /told
	soon grep -q /tasks/oom "$SCRATCH/events"
	ends c1 137
	kill $!
}
listened() {
	ctr containers label c1 "some=$RANDOM"
	[ -s "$SCRATCH/events" ]
}

use_mounts() {
	mkdir -p "$SCRATCH/data"
	echo hello >"$SCRATCH/data/file"
	echo alone >"$SCRATCH/alone"
	eq "$(prints --mount "type=bind,src=$SCRATCH/data,dst=/data,options=rbind:rw" -- sh -c 'cat /data/file; echo back >/data/back')" hello
	eq "$(cat "$SCRATCH/data/back")" back
	eq "$(prints --mount "type=bind,src=$SCRATCH/alone,dst=/etc/alone,options=bind:ro" -- sh -c 'cat /etc/alone; echo x >/etc/alone || true')" alone
	eq "$(cat "$SCRATCH/alone")" alone
	has "$(prints --mount type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m -- df -k /scratch)" 1024
}

use_read_only() {
	says 'Read-only file system' prints --read-only -- touch /x
}

use_env_cwd() {
	eq "$(prints --env A=b --cwd /tmp -- sh -c 'echo $A; pwd')" "b
/tmp"
}

use_annotations() {
	run -d --annotation org.example.a=b --label org.example.l=m "$IMAGE" c1 sleep 1000
	has "$(ctr containers info c1)" org.example.a org.example.l
}

use_capabilities() {
	has "$(prints --cap-drop CAP_CHOWN -- sh -c 'chown 1 /tmp 2>&1 || true')" 'not permitted'
	eq "$(prints --cap-add CAP_SYS_TIME -- sh -c 'grep CapEff /proc/self/status | cut -f 2')" 00000000aa0425fb
}

use_seccomp() {
	eq "$(prints --seccomp -- grep Seccomp: /proc/self/status | tr -d '\t')" Seccomp:2
}

use_privileged() {
	run --rm --privileged "$IMAGE" c1 mount -t tmpfs none /mnt
}

use_with_network_namespace() {
	ip netns add n1
	ip link add v0 type veth peer name v1 netns n1
	ip -n n1 addr add 10.9.8.7/24 dev v1
	ip -n n1 link set v1 up
	has "$(prints --with-ns network:/run/netns/n1 -- ip addr)" 10.9.8.7/24
	ip netns delete n1
	ip link delete v0 2>/dev/null || true
}

use_snapshotter_native() {
	snapshotter native
}
snapshotter() {
	local how=
	if [ "$CLIENT" = ctr2 ]; then how=--local; fi
	ctr images import $how --snapshotter "$1" "$ARCHIVE"
	eq "$(prints --snapshotter "$1" -- sh -c 'echo hello >/file; cat /file')" hello
}

use_snapshotter_blockfile() {
	snapshotter blockfile
}

use_snapshotter_erofs() {
	snapshotter erofs
}

# The client's own processes are killed while a container runs.
use_kill_shim() {
	run -d "$IMAGE" c1 sleep 1000
	pkill -KILL -f "containerd-shim-runc-v2 .*-id c1" || fail 'no shim'
	soon removed c1
	eq "$(prints -- echo again)" again
}

removed() {
	ctr tasks rm -f "$1" || true
	ctr containers rm "$1"
}

use_kill_containerd() {
	run -d "$IMAGE" c1 sleep 1000
	gone containerd KILL
	daemon containerd containerd
	soon ctr version
	eq "$(status c1)" RUNNING
	eq "$(x c1 echo hello)" hello
	ctr tasks kill -s KILL c1
	ends c1 137
}
