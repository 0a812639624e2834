// Package validation holds the OCI validation suite of runtime-tools as a Go
// test, and our own tests of what that suite does not assert.
//
// The runtime under test is $RUNTIME, by default _output/bin/runm. Any other
// runtime than runm is only reported on (suite) or compared with (own tests).
// Tests need Linux and root, and skip where either, or the binary, is missing.
//
//	go test ./tests/validation -timeout 20m -v
//	RUNTIME=runc go test ./tests/validation -run TestSuite -timeout 20m -v
//
// $RUNM_REPORT names a file for the suite's table; -artifacts -outputdir DIR
// keeps what each program printed. expected.txt says what each program is
// worth and what it must give.
package validation
