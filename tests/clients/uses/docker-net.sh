# shellcheck shell=bash
# shellcheck source=tests/clients/uses/docker.sh
. "$USES/docker.sh"
# shellcheck source=tests/clients/uses/net.sh
. "$USES/net.sh"

use_compose() {
	mkdir -p "$SCRATCH/compose"
	cat >"$SCRATCH/compose/docker-compose.yml" <<-EOF
		version: "2.4"
		services:
		  web:
		    image: $IMAGE
		    runtime: $RT
		    command: sh -c 'mkdir /www; echo web >/www/index.html; echo serving; exec httpd -f -p 80 -h /www'
		    ports: ["127.0.0.1:8083:80"]
		  client:
		    image: $IMAGE
		    runtime: $RT
		    command: sleep 1000
		    depends_on: [web]
	EOF
	cd "$SCRATCH/compose" || return
	docker-compose up -d
	soon fetch 127.0.0.1:8083
	eq "$(docker-compose ps -q | wc -l)" 2
	soon eval 'docker-compose logs web | grep serving'
	has "$(docker-compose exec -T client nslookup web)" Address
	docker-compose down -t 0
	eq "$(docker ps -aq)" ""
}
