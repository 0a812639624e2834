// Package faults tests what happens when something goes wrong, or is hard: the
// runtime's own processes are killed, machines do not boot, disks are full,
// readers do not read. It runs the binary that $RUNM names, or the one of the
// build, and ends each test with the check that nothing is left on the host.
package faults
