# shellcheck shell=bash
# The CRI of a containerd, for critest: its directory, and the containerd's, are
# in PATH. Images come from $REGISTRY, whatever registry they are named after.
# shellcheck source=tests/clients/uses/crilib.sh
. "$USES/crilib.sh"

config() {
	config2 registry.k8s.io/pause:3.9
	cat <<-EOF
		[plugins."io.containerd.grpc.v1.cri".registry]
		  config_path = "/etc/containerd/certs.d"
	EOF
}

up() {
	mkdir -p /etc/containerd/certs.d/_default
	cat >/etc/containerd/certs.d/_default/hosts.toml <<-EOF
		server = "http://$REGISTRY"
		[host."http://$REGISTRY"]
		  capabilities = ["pull", "resolve"]
	EOF
	serve
}

# specs [FOCUS]: runs critest with the runtime $RT. Its report is
# $SCRATCH/critest-$RT.xml; its exit status says only that a spec failed.
specs() {
	critest -runtime-handler "$RT" -ginkgo.junit-report "$SCRATCH/critest-$RT.xml" -ginkgo.seed 1 \
		-parallel "${PARALLEL:-2}" ${1:+-ginkgo.focus "$1"} -ginkgo.no-color || true
}
