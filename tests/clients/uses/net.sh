# shellcheck shell=bash
# The networks of Docker, nerdctl and Podman; the list that reads this has what
# common.sh asks for. Bridges and rules are the sandbox's.
ip_of() { cli inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }
# server NAME OPTION...: a web server that says its name.
server() {
	local name=$1
	shift
	net -d --name "$name" "$@" "$IMAGE" sh -c "mkdir /www; echo $name >/www/index.html; exec httpd -f -p 80 -h /www"
}
# host_server ADDRESS: one on the host that says host, until the use ends.
host_server() {
	mkdir -p "$SCRATCH/www"
	echo host >"$SCRATCH/www/index.html"
	/bin/busybox httpd -f -p "$1" -h "$SCRATCH/www" &
	# shellcheck disable=SC2064 # this one
	trap "kill $!" EXIT
	soon serves "127.0.0.1:${1#*:}" host
}
# client OPTION... URL: what a container gets from there.
client() {
	"${READING[@]}" net --rm "${STDIN[@]}" "${@:1:$#-1}" "$IMAGE" "${PRINTING[@]}" wget -q -O - "${!#}"
}

# composed COMMAND...: with that compose, a web server and a client are up.
composed() {
	mkdir -p "$SCRATCH/compose"
	cat >"$SCRATCH/compose/docker-compose.yml" <<-EOF
		version: "2.4"
		services:
		  web:
		    image: $IMAGE
		    runtime: ${RUN_OPTIONS#--runtime }
		    command: sh -c 'mkdir /www; echo web >/www/index.html; echo serving; exec httpd -f -p 80 -h /www'
		    ports: ["127.0.0.1:8083:80"]
		  client:
		    image: $IMAGE
		    runtime: ${RUN_OPTIONS#--runtime }
		    command: sleep 1000
		    depends_on: [web]
	EOF
	cd "$SCRATCH/compose" || return
	"$@" up -d
	soon serves 127.0.0.1:8083 web
	eq "$("$@" ps -q | wc -l)" 2
	soon eval "$* logs web | grep serving"
}

use_bridge() {
	server c1 -p 127.0.0.1:8080:80
	soon serves "$(ip_of c1)" c1
	soon serves 127.0.0.1:8080 c1
	has "$(cli port c1)" 127.0.0.1:8080
	has "$(x ip addr show eth0)" "$(ip_of c1)/"
	has "$(x ip route)" default
	cli restart -t 0 c1
	soon serves "$(ip_of c1)" c1
	soon serves 127.0.0.1:8080 c1
}

use_between() {
	server c1
	soon fetch "$(ip_of c1)"
	eq "$(client "http://$(ip_of c1)/")" c1
}

use_out() {
	host_server 8081
	eq "$(client "http://$GATEWAY:8081/")" host
}

use_names() {
	cli network create n1
	server c1 --network n1
	soon fetch "$(ip_of c1)"
	# Podman's server of names stops for a moment, and starts again, for each container
	# that begins.
	net -d --name c2 --network n1 "$IMAGE" sleep 1000
	soon named c1
}
named() { has "$(cli exec c2 nslookup "$1")" "$(ip_of "$1")"; }

use_connect() {
	cli network create n1
	server c1
	soon fetch "$(ip_of c1)"
	cli network connect n1 c1
	soon eval 'x ip addr show eth1 | grep inet'
	soon fetch "$(cli inspect -f '{{.NetworkSettings.Networks.n1.IPAddress}}' c1)"
	cli network disconnect n1 c1
	soon x sh -c '! ip addr show eth1'
}

use_of_container() {
	server c1
	soon fetch "$(ip_of c1)"
	eq "$(client --network container:c1 http://127.0.0.1/)" c1
}

use_host() {
	host_server 127.0.0.1:8082
	eq "$(client --network host http://127.0.0.1:8082/)" host
}
