# shellcheck shell=bash
# Kubernetes' interface of containerd 2.4, or 1.6, with crictl.
# shellcheck source=tests/clients/uses/crilib.sh
. "$USES/crilib.sh"
if [ "$CLIENT" = cri ]; then PATH=$BUILT/containerd:$PATH; fi

config() {
	if [ "$CLIENT" = cri16 ]; then
		config2 "$PAUSE"
		return
	fi
	cat <<-EOF
		version = 3
		[plugins."io.containerd.cri.v1.images".pinned_images]
		  sandbox = "$PAUSE"
		[plugins."io.containerd.cri.v1.runtime"]
		  restrict_oom_score_adj = true
		  disable_apparmor = true
		[plugins."io.containerd.cri.v1.runtime".cni]
		  bin_dirs = ["/usr/lib/cni"]
		  conf_dir = "/etc/cni/net.d"
	EOF
	runtimes io.containerd.cri.v1.runtime
}

up() {
	serve
	ctr -n k8s.io images import "$ARCHIVE"
	crictl images
}

# pod NAME [EXTRA]: runs a sandbox, prints its id. EXTRA is more of its JSON.
pod() {
	cat >"$SCRATCH/pod-$1.json" <<-EOF
		{"metadata": {"name": "$1", "namespace": "default", "uid": "$1-uid"}, "hostname": "$1",
		 "log_directory": "$SCRATCH/logs-$1", "linux": {"cgroup_parent": "/$NAME"}${2+, }${2-}}
	EOF
	mkdir -p "$SCRATCH/logs-$1"
	crictl runp --runtime "$RT" "$SCRATCH/pod-$1.json"
}

# container POD NAME COMMAND [EXTRA]: creates a container in the pod POD (a
# name, whose id is in $id), prints its id.
container() {
	cat >"$SCRATCH/$2.json" <<-EOF
		{"metadata": {"name": "$2"}, "image": {"image": "$IMAGE"}, "log_path": "$2.log",
		 "command": ["sh", "-c", "$3"]${4+, }${4-}}
	EOF
	crictl create "$id" "$SCRATCH/$2.json" "$SCRATCH/pod-$1.json"
}
state() { crictl inspect -o go-template --template '{{.status.state}}' "$1"; }
is_state() { [ "$(state "$1")" = "$2" ]; }
exit_code() { crictl inspect -o go-template --template '{{.status.exitCode}}' "$1"; }

use_pod() {
	local id
	id=$(pod p1)
	has "$(crictl pods)" Ready p1
	crictl stopp "$id"
	has "$(crictl pods)" NotReady
	crictl rmp "$id"
	eq "$(crictl pods -q)" ''
}

use_container() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'echo hello; exec sleep 1000')
	eq "$(state "$c")" CONTAINER_CREATED
	crictl start "$c"
	eq "$(state "$c")" CONTAINER_RUNNING
	soon eval "crictl logs $c | grep hello"
	crictl stop -t 0 "$c"
	eq "$(state "$c")" CONTAINER_EXITED
	eq "$(exit_code "$c")" 137
	crictl rm "$c"
}

use_exit_code() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'exit 7')
	crictl start "$c"
	soon is_state "$c" CONTAINER_EXITED
	eq "$(exit_code "$c")" 7
}

use_exec() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'sleep 1000')
	crictl start "$c"
	eq "$(crictl exec -s "$c" echo hello)" hello
	eq "$(crictl exec "$c" echo hello)" hello
	says 'exited with 9' crictl exec -s "$c" sh -c 'exit 9'
}

use_two_containers() {
	local id a b
	id=$(pod p1)
	a=$(container p1 c1 'mkdir /www; echo c1 >/www/index.html; exec httpd -f -p 80 -h /www')
	b=$(container p1 c2 'sleep 1000')
	crictl start "$a" "$b"
	eq "$(crictl exec -s "$b" hostname)" p1
	soon eval '[ "$(crictl exec -s "$b" wget -q -O - http://127.0.0.1/)" = c1 ]'
}

use_network() {
	local id c ip
	id=$(pod p1)
	ip=$(crictl inspectp -o go-template --template '{{.status.network.ip}}' "$id")
	c=$(container p1 c1 'mkdir /www; echo c1 >/www/index.html; exec httpd -f -p 80 -h /www')
	crictl start "$c"
	soon serves "$ip" c1
	has "$(crictl exec -s "$c" ip addr)" "$ip"
}

use_port() {
	local id c
	id=$(pod p1 '"port_mappings": [{"protocol": 0, "container_port": 80, "host_port": 8080}]')
	c=$(container p1 c1 'mkdir /www; echo c1 >/www/index.html; exec httpd -f -p 80 -h /www')
	crictl start "$c"
	soon serves 10.77.0.1:8080 c1
}

# The server is at the pod's loopback alone.
use_port_forward() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'mkdir /www; echo c1 >/www/index.html; exec httpd -f -p 127.0.0.1:80 -h /www')
	crictl start "$c"
	soon crictl exec -s "$c" wget -q -O - http://127.0.0.1/
	daemon port-forward crictl port-forward "$id" 8080:80
	soon serves 127.0.0.1:8080 c1
	gone port-forward
}

use_limits() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'sleep 1000' '"linux": {"resources": {"memory_limit_in_bytes": 67108864, "cpu_quota": 50000, "cpu_period": 100000}}')
	crictl start "$c"
	has "$(crictl exec -s "$c" sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true')" 67108864
	crictl update --memory 134217728 "$c"
	has "$(crictl exec -s "$c" sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true')" 134217728
}

use_out_of_memory() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'until [ -e /told ]; do sleep 0.1; done; exec tail /dev/zero' '"linux": {"resources": {"memory_limit_in_bytes": 67108864}}')
	crictl start "$c"
	crictl exec -s "$c" touch /told
	soon is_state "$c" CONTAINER_EXITED
	# Out of memory and the end are two events.
	soon eval '[ "$(crictl inspect -o go-template --template "{{.status.reason}}" "$c")" = OOMKilled ]'
}

use_stats() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'while :; do :; done')
	crictl start "$c"
	has "$(crictl stats -o json "$c")" usageCoreNanoSeconds workingSetBytes
	has "$(crictl statsp)" p1
}

use_mounts() {
	local id c
	mkdir -p "$SCRATCH/data"
	echo hello >"$SCRATCH/data/file"
	id=$(pod p1)
	c=$(container p1 c1 'cat /data/file; echo back >/data/back; sleep 1000' "\"mounts\": [{\"container_path\": \"/data\", \"host_path\": \"$SCRATCH/data\"}]")
	crictl start "$c"
	soon grep -q back "$SCRATCH/data/back"
}

use_security() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'id -u; touch /x; sleep 1000' '"linux": {"security_context": {"run_as_user": {"value": 1000}, "readonly_rootfs": true, "no_new_privs": true}}')
	crictl start "$c"
	soon eval "crictl logs $c 2>&1 | grep 1000"
	soon eval "crictl logs $c 2>&1 | grep Read-only"
}

use_kill_containerd() {
	local id c
	id=$(pod p1)
	c=$(container p1 c1 'sleep 1000')
	crictl start "$c"
	gone containerd KILL
	daemon containerd containerd
	soon crictl info
	eq "$(state "$c")" CONTAINER_RUNNING
	eq "$(crictl exec -s "$c" echo hello)" hello
	crictl stopp "$id"
	crictl rmp "$id"
}
