# shellcheck shell=bash
# The CRI of a containerd, for critest, whose directory is in PATH. Images come from $REGISTRY, whatever registry they are named after.
PATH=$BUILT/cri-tools:$PATH

up() {
	mkdir -p /etc/containerd/certs.d/_default /etc/cni/net.d
	cat >/etc/containerd/config.toml <<-EOT
		version = 2
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "registry.k8s.io/pause:3.9"
		  restrict_oom_score_adj = true
		  disable_apparmor = true
		[plugins."io.containerd.grpc.v1.cri".registry]
		  config_path = "/etc/containerd/certs.d"
		[plugins."io.containerd.grpc.v1.cri".cni]
		  bin_dir = "/usr/lib/cni"
		  conf_dir = "/etc/cni/net.d"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		  BinaryName = "/usr/sbin/runc"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runm]
		  runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runm.options]
		  BinaryName = "$RUNM"
	EOT
	cat >/etc/containerd/certs.d/_default/hosts.toml <<-EOT
		server = "http://$REGISTRY"
		[host."http://$REGISTRY"]
		  capabilities = ["pull", "resolve"]
	EOT
	cat >/etc/cni/net.d/10-pods.conflist <<-EOT
		{"cniVersion": "0.4.0", "name": "pods", "plugins": [
			{"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true,
				"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
			{"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
	EOT
	cat >/etc/crictl.yaml <<-EOT
		runtime-endpoint: unix:///run/containerd/containerd.sock
		timeout: 60
	EOT
	daemon containerd containerd
	soon crictl info
}

down() { gone containerd; }

clean() {
	local p
	for p in $(crictl pods -q); do
		crictl stopp "$p"
		crictl rmp -f "$p"
	done
}

# specs [FOCUS]: runs critest with the runtime $RT. Its report is
# $SCRATCH/critest-$RT.xml; its exit status says only that a spec failed.
specs() {
	critest -runtime-handler "$RT" -ginkgo.junit-report "$SCRATCH/critest-$RT.xml" -ginkgo.seed 1 \
		-parallel "${PARALLEL:-2}" ${1:+-ginkgo.focus "$1"} -ginkgo.no-color || true
}
