# shellcheck shell=bash
# Podman as root, with cgroupfs and log files as on a host without systemd.
export CLI="podman --runtime $RT"
export RUN_OPTIONS="--cgroup-parent /$NAME"
export CP_FOLLOW=
export PRUNE_ALL=
export GATEWAY=10.88.0.1
# shellcheck source=tests/clients/uses/common.sh
. "$USES/common.sh"
podman() { cli "$@"; }

up() {
	mkdir -p /etc/containers
	# Without network_backend it depends on the networks that the host's
	# /etc/cni/net.d has.
	cat >/etc/containers/containers.conf <<-EOF
		[containers]
		log_driver = "k8s-file"
		default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
		[engine]
		cgroup_manager = "cgroupfs"
		events_logger = "file"
		runtime = "runc"
		[engine.runtimes]
		runm = ["$RUNM"]
		[network]
		network_backend = "netavark"
	EOF
	cat >/etc/containers/policy.json <<-EOF
		{"default": [{"type": "insecureAcceptAnything"}]}
	EOF
	podman load -i "$ARCHIVE"
	podman run --rm --network none "$IMAGE" true # makes what is made once
}

down() { :; }

clean() {
	podman pod rm -a -f -t 0 >/dev/null
	podman rm -a -f -t 0 -v >/dev/null
	podman volume prune -f >/dev/null
	podman network prune -f >/dev/null
}

use_export() {
	run -d --name c1 "$IMAGE" sh -c 'echo new >/new; sleep 1000'
	soon x test -s /new
	[ "$(podman export c1 | tar -t | grep -c '^new$')" = 1 ]
}

use_init() {
	has "$(run --rm --init "$IMAGE" cat /proc/1/cmdline | tr '\0' ' ')" init
}

use_healthcheck() {
	run -d --name c1 --health-cmd 'test -e /well' --health-interval disable --health-retries 1 "$IMAGE" sleep 1000
	code 1 podman healthcheck run c1
	x touch /well
	podman healthcheck run c1
	want '{{.State.Health.Status}}' healthy
}

use_events() {
	run --rm --name c1 "$IMAGE" true
	# Who removes it may be a process that conmon has started.
	soon lived c1
}
lived() { has "$(podman events --stream=false --filter "container=$1" --format '{{.Status}}' | tr '\n' ' ')" create start died remove; }

use_restart_always() {
	run -d --name c1 --restart on-failure:2 "$IMAGE" sh -c 'echo x >>/count; exit 1'
	soon is '{{.RestartCount}} {{.State.Status}}' '2 exited'
}

use_update() {
	sleeper -m 128m
	podman update -m 64m --cpus 0.5 c1
	has "$(cgroup memory/memory.limit_in_bytes memory.max)" 67108864
	has "$(cgroup cpu/cpu.cfs_quota_us cpu.max)" 50000
}

use_build() {
	mkdir -p "$SCRATCH/build"
	printf 'FROM %s\nRUN echo ran >/ran\nCOPY file /file\nCMD ["cat", "/ran", "/file"]\n' "$IMAGE" >"$SCRATCH/build/Dockerfile"
	echo built >"$SCRATCH/build/file"
	podman build --network none --isolation oci --runtime "$RUNTIME" -t localhost/built "$SCRATCH/build"
	eq "$(run --rm localhost/built)" "ran
built"
	podman rmi localhost/built
}

use_pod() {
	podman pod create --name p1 --network none --infra-command 'sleep 1000' --infra-image "$IMAGE" --cgroup-parent "/$NAME"
	podman run -d --pod p1 --name c1 "$IMAGE" sleep 1001
	podman run -d --pod p1 --name c2 "$IMAGE" sleep 1002
	eq "$(x hostname)" p1
	has "$(podman pod ps)" Running
	podman pod stop -t 1 p1
	podman pod rm p1
}

use_kill_conmon() {
	run -d --name c1 "$IMAGE" sleep 1000
	kill -KILL "$(inspect '{{.State.ConmonPid}}')"
	local id
	id=$(inspect '{{.Id}}')
	podman rm -f -t 0 c1
	# Podman 4.3 forgets to call the runtime.
	"$RUNTIME" delete --force "$id"
	eq "$(run --rm --name c1 "$IMAGE" echo again)" again
}
