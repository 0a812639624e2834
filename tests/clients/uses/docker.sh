# shellcheck shell=bash
# Docker with its defaults: containerd, the overlay2 driver, json-file logs.
export CLI=docker
export RUN_OPTIONS="--runtime $RT"
export CP_FOLLOW=-L
export PRUNE_ALL=
export GATEWAY=172.17.0.1
# shellcheck source=tests/clients/uses/common.sh
. "$USES/common.sh"

up() {
	mkdir -p /etc/docker
	cat >/etc/docker/daemon.json <<-EOF
		{
			"runtimes": {"runm": {"path": "$RUNM"}},
			"cgroup-parent": "/$NAME",
			"exec-opts": ["native.cgroupdriver=cgroupfs"]
		}
	EOF
	daemon dockerd dockerd
	soon docker version
	docker load -i "$ARCHIVE"
	docker run --rm "$IMAGE" true # makes what is made once
}

down() { gone dockerd; }

# It can be bound; docs/files.md says what cannot be done with it.
use_volume_socket() {
	has "$(run --rm -v /run/docker.sock:/socket "$IMAGE" ls -l /socket)" srw
}

use_init() {
	eq "$(run --rm --init "$IMAGE" cat /proc/1/comm)" docker-init
}

use_attach() {
	run -d -i --name c1 "$IMAGE" sh -c 'while read -r line; do echo "got $line"; done'
	local attached
	{ echo one; soon logged 'got one'; } | docker attach --sig-proxy=false c1 >/dev/null 2>&1 &
	attached=$!
	soon logged 'got one'
	kill $attached 2>/dev/null || true
	wait # for what feeds it, which asks for logs of the container
}
logged() { has "$(docker logs c1 2>&1)" "$1"; }

use_export() {
	run -d --name c1 "$IMAGE" sh -c 'echo new >/new; sleep 1000'
	soon x test -s /new
	[ "$(docker export c1 | tar -t | grep -c '^new$')" = 1 ] || fail 'no /new'
}

use_healthcheck() {
	run -d --name c1 --health-cmd 'test -e /well' --health-interval 1s --health-retries 1 "$IMAGE" sleep 1000
	soon is '{{.State.Health.Status}}' unhealthy
	x touch /well
	soon is '{{.State.Health.Status}}' healthy
}

use_build() {
	mkdir -p "$SCRATCH/build"
	printf 'FROM %s\nCOPY file /file\nCMD ["cat", "/file"]\n' "$IMAGE" >"$SCRATCH/build/Dockerfile"
	echo built >"$SCRATCH/build/file"
	DOCKER_BUILDKIT=0 docker build -t localhost/built "$SCRATCH/build"
	eq "$(run --rm localhost/built)" built
	docker rmi localhost/built
}

use_kill_shim() {
	run -d --name c1 "$IMAGE" sleep 1000
	pkill -KILL -f "containerd-shim-runc-v2 .*-id $(inspect '{{.Id}}')" || fail 'no shim'
	soon is '{{.State.Status}}' exited
	docker rm -f c1
	eq "$(run --rm --name c1 "$IMAGE" echo again)" again
}

use_kill_dockerd() {
	run -d --name c1 "$IMAGE" sleep 1000
	again
	want '{{.State.Status}}' exited # live-restore is off
	docker start c1
	eq "$(x echo hello)" hello
	docker stop -t 0 c1
}
again() {
	gone dockerd KILL
	rm -f /run/docker.pid
	daemon dockerd dockerd
	soon docker version
}
