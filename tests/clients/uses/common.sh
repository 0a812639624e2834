# shellcheck shell=bash
# What Docker, nerdctl and Podman have in common. The list that reads this has
#   CLI              the client's command
#   RUN_OPTIONS      what each run has: the runtime
#   CP_FOLLOW        the option of cp that follows a symlink
#   PRUNE_ALL        the option of volume prune that removes those with names, too
#   GATEWAY          the host's end of the default network
# and may define again, after it, what is different for it.
# Several options are looked at in one container: each one is a machine.
cli() { command $CLI "$@"; }
run() { cli run $RUN_OPTIONS --network none "$@"; }
net() { cli run $RUN_OPTIONS "$@"; }

clean() {
	local ids
	ids=$(cli ps -aq)
	[ -z "$ids" ] || cli rm -f -v $ids >/dev/null
	eq "$(cli ps -aq)" '' # nerdctl's rm -f succeeds whatever happens
	cli volume prune $PRUNE_ALL -f >/dev/null
	cli network prune -f >/dev/null
}

inspect() { cli inspect -f "$1" "${2-c1}"; }
is() { [ "$(inspect "$1" "${3-c1}")" = "$2" ]; }
want() { eq "$(inspect "$1" "${3-c1}")" "$2"; }
x() { "${READING[@]}" cli exec "${STDIN[@]}" c1 "${PRINTING[@]}" "$@"; }
# sleeper OPTION...: a container that waits, c1.
sleeper() { run -d --name c1 "$@" "$IMAGE" sleep 1000; }
# cgroup FILE...: what these files of the container's cgroup say, whichever
# of them there are: of v1 with runc, of v2 with runm.
cgroup() { x sh -c 'cd /sys/fs/cgroup; cat "$@" 2>/dev/null; true' sh "$@"; }
# What a container does until x has touched /told.
WHEN_TOLD='until [ -e /told ]; do sleep 0.1; done'
# A container that is to end when told is told by a signal, as an exec may be cut
# off by the end that it has caused: first LISTENS, then UNTIL_TOLD, then tell.
LISTENS="trap 'told=yes' USR1"
UNTIL_TOLD='until [ "$told" ]; do sleep 0.1; done'
tell() { cli kill -s USR1 "$1" >/dev/null; }

use_run() {
	echo in | run --rm -i "$IMAGE" sh -c 'cat; echo out; echo err >&2' >"$SCRATCH/out" 2>"$SCRATCH/err"
	eq "$(cat "$SCRATCH/out")" "in
out"
	eq "$(cat "$SCRATCH/err")" err
}

use_exit_codes() {
	code 7 run --rm "$IMAGE" sh -c 'exit 7'
	code 126 run --rm "$IMAGE" /etc/passwd
	code 127 run --rm "$IMAGE" no-such-program
	code 125 run --rm --no-such-option "$IMAGE" true
}

use_tty() {
	has "$(tty $CLI run $RUN_OPTIONS --network none --rm -it "$IMAGE" "${LINGERING[@]}" sh -c 'tty; echo $TERM')" /dev/pts/0 xterm
}

use_detached_tty() {
	run -dt --name c1 "$IMAGE" sh -c 'tty >/tmp/tty; sleep 1000'
	soon x grep /dev/pts/0 /tmp/tty
}

use_logs() {
	run -d --name c1 "$IMAGE" sh -c 'echo one; echo two >&2; seq 100000'
	eq "$(cli wait c1)" 0
	eq "$(cli logs c1 2>/dev/null | md5sum)" "$({ echo one; seq 100000; } | md5sum)"
	eq "$(cli logs c1 2>&1 >/dev/null)" two
}

# A line that is there already, and one that comes later. The end follows when both
# have been shown: a follower that hears of it stops reading.
use_logs_follow() {
	run -d --name c1 "$IMAGE" sh -c "$LISTENS; echo one; $UNTIL_TOLD; told=; echo two; $UNTIL_TOLD"
	cli logs -f c1 >"$SCRATCH/out" &
	soon grep -qx one "$SCRATCH/out"
	tell c1
	soon grep -qx two "$SCRATCH/out"
	tell c1
	wait $!
	eq "$(cat "$SCRATCH/out")" "one
two"
}

use_exec() {
	sleeper
	eq "$(x echo hello)" hello
	eq "$("${READING[@]}" cli exec "${STDIN[@]}" -e A=b -w /tmp -u app c1 "${PRINTING[@]}" sh -c 'echo $A; pwd; id -un')" "b
/tmp
app"
	echo in | cli exec -i c1 sh -c 'cat >/dev/shm/in'
	eq "$(x cat /dev/shm/in)" in
	cli exec -d c1 touch /dev/shm/made
	soon x test -e /dev/shm/made
	has "$(tty $CLI exec -it c1 "${LINGERING[@]}" tty)" /dev/pts/
}

use_exec_exit_codes() {
	sleeper
	code 7 x sh -c 'exit 7'
	code 126 x /etc/passwd
	has "$(x no-such-program 2>&1 || true)" 'executable file not found'
	code 137 x sh -c 'kill -KILL $$'
}

use_exec_privileged() {
	sleeper
	has "$("${READING[@]}" cli exec --privileged "${STDIN[@]}" c1 "${PRINTING[@]}" grep CapEff /proc/self/status)" ffffff
}

# -- What a container is given.

use_options() {
	run -d --name c1 --user app --group-add 2000 --hostname inside --add-host other:10.0.0.9 \
		-e A=b -w /tmp --entrypoint sleep --label l=m \
		--ulimit nofile=100:200 --ulimit nproc=300:300 --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=4096 \
		--shm-size 3m --tmpfs /scratch:size=1m,mode=1777 "$IMAGE" 1000
	eq "$(x id -u) $(x id -G)" "1000 1000 2000"
	eq "$(x hostname)" inside
	has "$(x grep other /etc/hosts)" 10.0.0.9
	eq "$(x sh -c 'echo $A; pwd')" "b
/tmp"
	has "$(x grep 'open files' /proc/1/limits | tr -s ' ')" 'files 100 200'
	eq "$(x cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax)" "1
4096"
	has "$(x df -k /dev/shm)" 3072
	has "$(x sh -c 'df -k /scratch; stat -c %a /scratch')" 1024 1777
	want '{{.State.Status}} {{.Config.Labels.l}}' 'running m'
}

use_user_by_number() {
	eq "$(prints --user 1234:5678 -- id -u)" 1234
}

use_read_only() {
	run --rm --read-only --tmpfs /run "$IMAGE" sh -c 'touch /run/x && ! touch /x'
}

use_capabilities() {
	eq "$(prints --cap-drop ALL --cap-add NET_RAW -- sh -c 'grep CapEff /proc/self/status | cut -f 2; chown 1 /tmp 2>/dev/null || echo refused')" "0000000000002000
refused"
}

use_seccomp() {
	has "$(prints -- grep -E 'Seccomp:' /proc/self/status | tr -d '\t')" Seccomp:2
	has "$(prints --security-opt no-new-privileges --security-opt seccomp=unconfined -- grep -E 'Seccomp:|NoNewPrivs:' /proc/self/status | tr -d '\t')" Seccomp:0 NoNewPrivs:1
}

use_privileged() {
	run --rm --privileged "$IMAGE" mount -t tmpfs none /mnt
}

use_limits() {
	sleeper -m 64m --cpus 0.5 --cpu-shares 512 --pids-limit 20
	has "$(cgroup memory/memory.limit_in_bytes memory.max)" 67108864
	has "$(cgroup cpu/cpu.cfs_quota_us cpu.max)" 50000
	has "$(cgroup pids/pids.max pids.max)" 20
	says "can't fork" x sh -c 'for i in $(seq 40); do sleep 100 & done'
}

# When told to: a shim watches for it only after the start. Nor is it told of
# before the end: those are two events.
use_out_of_memory() {
	run -d --name c1 -m 64m "$IMAGE" sh -c "$WHEN_TOLD; exec tail /dev/zero"
	x touch /told
	eq "$(cli wait c1)" 137
	soon is '{{.State.OOMKilled}}' true
}

# Not init, which goes on.
use_out_of_memory_child() {
	run -d --name c1 -m 64m "$IMAGE" sh -c "$WHEN_TOLD; tail /dev/zero; sleep 1; exit 3"
	x touch /told
	eq "$(cli wait c1)" 3
	soon is '{{.State.OOMKilled}}' true
}

use_update() {
	sleeper -m 128m --pids-limit 100
	cli update -m 64m --memory-swap 64m --cpus 0.5 --pids-limit 50 c1
	has "$(cgroup memory/memory.limit_in_bytes memory.max)" 67108864
	has "$(cgroup pids/pids.max pids.max)" 50
}

use_update_beyond() {
	sleeper -m 64m --memory-swap -1
	cli update -m 4g --memory-swap -1 c1
}

# -- Files.

use_volumes() {
	mkdir -p "$SCRATCH/data"
	echo hello >"$SCRATCH/data/file"
	echo alone >"$SCRATCH/alone"
	cli volume create v1
	prints -v "$SCRATCH/data:/data" -v "$SCRATCH/data:/ro:ro" -v "$SCRATCH/alone:/etc/alone" -v v1:/v -- sh -ec '
		cat /data/file /etc/alone
		echo back >/data/back
		chown 1000 /data/back
		echo more >>/etc/alone
		echo kept >/v/file
		! touch /ro/x' >"$SCRATCH/out"
	eq "$(cat "$SCRATCH/out")" "hello
alone"
	eq "$(cat "$SCRATCH/data/back") $(stat -c %u "$SCRATCH/data/back")" "back 1000"
	eq "$(cat "$SCRATCH/alone")" "alone
more"
	# An anonymous one is filled from the image.
	has "$(prints -v v1:/v -v /etc -- sh -c 'cat /v/file; ls /etc')" kept passwd
}

use_volumes_from() {
	run -d --name c1 -v /v "$IMAGE" sh -c 'echo shared >/v/file; sleep 1000'
	soon x test -s /v/file
	eq "$(prints --volumes-from c1 -- cat /v/file)" shared
}

use_cp_running() {
	mkdir -p "$SCRATCH/vol" "$SCRATCH/tree/a"
	run -d --name c1 -v "$SCRATCH/vol:/vol" "$IMAGE" sh -c 'echo inside >/tmp/file; sleep 1000'
	soon x test -s /tmp/file
	cli cp c1:/tmp/file "$SCRATCH/copied"
	eq "$(cat "$SCRATCH/copied")" inside
	echo outside >"$SCRATCH/new"
	cli cp "$SCRATCH/new" c1:/tmp/new
	soon x grep outside /tmp/new
	echo deep >"$SCRATCH/tree/a/b"
	cli cp "$SCRATCH/tree" c1:/
	eq "$(x cat /tree/a/b)" deep
	cli cp "$SCRATCH/new" c1:/vol/new
	eq "$(x cat /vol/new)" outside
}

use_cp_stopped() {
	run --name c1 "$IMAGE" true
	echo outside >"$SCRATCH/new"
	cli cp "$SCRATCH/new" c1:/tmp/new
	cli cp c1:/tmp/new "$SCRATCH/got"
	eq "$(cat "$SCRATCH/got")" outside
}

# A symlink in the container never leads to the host's files.
use_cp_symlink() {
	echo secret >"$SCRATCH/secret"
	run -d --name c1 "$IMAGE" sh -c "mkdir -p $SCRATCH; echo own >$SCRATCH/secret; ln -s $SCRATCH/secret /link; ln -s / /root/up; sleep 1000"
	soon x test -L /root/up
	cli cp $CP_FOLLOW c1:/link "$SCRATCH/got"
	eq "$(cat "$SCRATCH/got")" own
	cli cp $CP_FOLLOW "c1:/root/up$SCRATCH/secret" "$SCRATCH/got2"
	eq "$(cat "$SCRATCH/got2")" own
	echo x >"$SCRATCH/put"
	cli cp "$SCRATCH/put" c1:/root/up/escaped
	[ ! -e /escaped ] || fail 'written on the host'
	local pid
	pid=$(inspect '{{.State.Pid}}')
	[ ! -e "/proc/$pid/root/$SCRATCH/image.tar" ] || fail "/proc/$pid/root is the host's"
}

use_commit_diff() {
	run -d --name c1 "$IMAGE" sh -c 'rm /etc/group; echo new >/new; sleep 1000'
	soon x test -s /new
	has "$(cli diff c1)" 'A /new' 'D /etc/group'
	cli commit c1 localhost/committed
	eq "$(IMAGE=localhost/committed prints -- cat /new)" new
	cli rmi localhost/committed
}

# -- Looking.

use_ps_top_inspect() {
	sleeper
	has "$(cli ps --format '{{.Names}} {{.Status}}')" 'c1 Up'
	[ -d "/proc/$(inspect '{{.State.Pid}}')" ] || fail 'no process'
	[ "$(cli top c1 | wc -l)" -ge 2 ] || fail "$(cli top c1)"
	has "$(cli top c1)" 'sleep 1000'
	cli stop -t 0 c1
	has "$(cli ps -a --format '{{.Names}} {{.Status}}')" 'c1 Exited (137)'
	want '{{.State.ExitCode}}' 137
}

use_stats() {
	run -d --name c1 -m 128m "$IMAGE" sh -c 'x=$(head -c 20000000 /dev/zero | tr "\0" x); while :; do :; done'
	soon busy
	hasnt "$(cli stats --no-stream --format '{{.MemUsage}}' c1)" '0B /'
}
# What it uses of a CPU, in per cent, is more than 2: an idle machine uses less, and
# one of 40 loops on two CPUs more.
busy() { [ "$(cli stats --no-stream --format '{{.CPUPerc}}' c1 | cut -d. -f1)" -gt 2 ]; }

# Docker tells of a container that is removed before it logs that.
use_events() {
	local since
	since=$(date +%s)
	run --rm --name c1 "$IMAGE" true
	soon lived "$since"
}
lived() { has "$(cli events --since "$1" --until "$(date +%s)" --format '{{.Action}}' | tr '\n' ' ')" create start die destroy; }

# -- Its life.

use_pause() {
	sleeper
	cli pause c1
	want '{{.State.Status}}' paused
	code_not 0 x true
	cli unpause c1
	eq "$(x echo hello)" hello
}

use_signals() {
	run -d --name c1 --stop-signal USR1 "$IMAGE" sh -c 'trap "touch /hup" HUP; trap "exit 5" USR1; touch /up; while :; do sleep 0.1; done'
	soon x test -e /up
	cli kill -s HUP c1
	soon x test -e /hup
	SECONDS=0
	cli stop -t 30 c1
	[ "$SECONDS" -lt 20 ] || fail "stop took $SECONDS s"
	want '{{.State.ExitCode}}' 5
}

use_restart() {
	run -d --name c1 "$IMAGE" sh -c 'echo x >>/count; sleep 1000'
	soon x test -s /count
	cli restart -t 0 c1
	soon eval '[ "$(x cat /count | wc -l)" = 2 ]'
}

use_restart_always() {
	run -d --name c1 --restart always "$IMAGE" sh -c 'echo x >>/count; [ $(wc -l </count) -ge 2 ] || exit 1; sleep 1000'
	soon eval '[ "$(x cat /count | wc -l)" = 2 ]'
}

use_rename_wait() {
	run -d --name c1 "$IMAGE" sh -c "$LISTENS; touch /up; $UNTIL_TOLD; exit 4"
	soon x test -e /up
	cli rename c1 c2
	tell c2
	eq "$(cli wait c2)" 4
}

use_ipc_of_container() {
	sleeper --ipc shareable
	eq "$(prints --ipc container:c1 -- echo hello)" hello
}

use_pid_of_container() {
	sleeper
	has "$(prints --pid container:c1 -- ps)" 'sleep 1000'
}

use_kill_holder() {
	sleeper
	kill -KILL "$(inspect '{{.State.Pid}}')"
	eq "$(cli wait c1)" 137
}
