# shellcheck shell=bash
# shellcheck source=tests/clients/uses/docker.sh
. "$USES/docker.sh"
# shellcheck source=tests/clients/uses/net.sh
. "$USES/net.sh"

use_compose() {
	composed docker-compose
	has "$(docker-compose exec -T client nslookup web)" Address
	docker-compose down -t 0
	eq "$(docker ps -aq)" ""
}
