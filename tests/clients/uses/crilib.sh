# shellcheck shell=bash
# containerd's CRI with pods on a bridge. The list that reads this has
#   config           prints containerd's configuration
PATH=$BUILT/cri-tools:$PATH

# config2 PAUSE: a configuration in the words of containerd 1.6, which 2 understands.
config2() {
	cat <<-EOF
		version = 2
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "$1"
		  restrict_oom_score_adj = true
		  disable_apparmor = true
		[plugins."io.containerd.grpc.v1.cri".cni]
		  bin_dir = "/usr/lib/cni"
		  conf_dir = "/etc/cni/net.d"
	EOF
	runtimes io.containerd.grpc.v1.cri
}

# runtimes PLUGIN: its handlers runc and runm.
runtimes() {
	local rt
	for rt in runc=/usr/sbin/runc runm="$RUNM"; do
		cat <<-EOF
			[plugins."$1".containerd.runtimes.${rt%%=*}]
			  runtime_type = "io.containerd.runc.v2"
			[plugins."$1".containerd.runtimes.${rt%%=*}.options]
			  BinaryName = "${rt#*=}"
		EOF
	done
}

# serve starts containerd and waits for it.
serve() {
	mkdir -p /etc/containerd /etc/cni/net.d
	{ config; patience; } >/etc/containerd/config.toml
	cat >/etc/cni/net.d/10-pods.conflist <<-EOF
		{"cniVersion": "0.4.0", "name": "pods", "plugins": [
			{"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true,
				"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
			{"type": "portmap", "capabilities": {"portMappings": true}}]}
	EOF
	cat >/etc/crictl.yaml <<-EOF
		runtime-endpoint: unix:///run/containerd/containerd.sock
		timeout: 60
	EOF
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
