// Package clients drives the runtime through the programs that people use:
// containerd (ctr, crictl), nerdctl, Docker, Podman. Each starts its real daemon in
// a sandbox of its own (namespaces for processes, mounts and network; its own
// /run, /etc and /var/lib), and runs its list of uses with runc, so that the
// list is known to be good, and then with runm.
//
// The lists are uses/*.sh: a use is a shell function use_NAME that succeeds or
// not. expected.txt says what each of them gives with either runtime; a use
// that gives anything else fails the test. After each list nothing may be left.
//
//	go test ./tests/clients -v
//	go test ./tests/clients -v -run TestClients/all/docker/runm/stats
//
// $RUNM_REPORT names a file for the table. The binary under test is
// _output/bin/runm, or $RUNM.
package clients
