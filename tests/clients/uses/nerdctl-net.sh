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
	composed nerdctl compose
	eq "$(lingers nerdctl compose exec -T client "${LINGERING[@]}" wget -q -O - http://web/)" web
	nerdctl compose kill
	nerdctl compose down
	eq "$(nerdctl ps -aq)" ""
}
