# shellcheck shell=bash
# Podman's networks: netavark, with aardvark-dns for names.
# shellcheck source=tests/clients/uses/podman.sh
. "$USES/podman.sh"
# shellcheck source=tests/clients/uses/net.sh
. "$USES/net.sh"
