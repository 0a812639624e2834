# shellcheck shell=bash
# nerdctl's networks: CNI's bridge, and names in /etc/hosts.
# shellcheck source=tests/clients/uses/nerdctl.sh
. "$USES/nerdctl.sh"
# shellcheck source=tests/clients/uses/net.sh
. "$USES/net.sh"

use_names() {
	nerdctl network create n1
	server c1 --network n1
	soon fetch "$(ip_of c1)"
	eq "$(client --network n1 http://c1/)" c1
}

use_compose() {
	mkdir -p "$SCRATCH/compose"
	cat >"$SCRATCH/compose/compose.yaml" <<-EOF
		services:
		  web:
		    image: $IMAGE
		    runtime: $RUNTIME
		    command: sh -c 'mkdir /www; echo web >/www/index.html; echo serving; exec httpd -f -p 80 -h /www'
		    ports: ["127.0.0.1:8083:80"]
		  client:
		    image: $IMAGE
		    runtime: $RUNTIME
		    command: sleep 1000
		    depends_on: [web]
	EOF
	cd "$SCRATCH/compose" || return
	nerdctl compose up -d
	soon fetch 127.0.0.1:8083
	eq "$(nerdctl compose ps -q | wc -l)" 2
	soon eval 'nerdctl compose logs web | grep serving'
	eq "$(nerdctl compose exec -T client sh -c 'wget -q -O - http://web/; sleep 0.5')" web
	nerdctl compose kill
	nerdctl compose down
	eq "$(nerdctl ps -aq)" ""
}
