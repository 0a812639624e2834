// Package bundle reads an OCI bundle and checks its config.json: what comes
// out of Load is complete, well-formed, and contains nothing that nobody would
// honour. docs/oci-support.md has one row for each field.
package bundle

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ErrUnsupported is wrapped by errors that refuse a field by name:
// "linux.intelRdt: not supported: …".
var ErrUnsupported = errors.New("not supported")

// ErrInvalidID is wrapped by CheckID's errors.
var ErrInvalidID = errors.New("invalid container id format")

// Bundle is a checked config.json and where it lies.
type Bundle struct {
	Dir    string      // absolute, symlinks resolved
	Rootfs string      // absolute path of the root filesystem, symlinks resolved
	Spec   *specs.Spec // as read; nothing is changed or filled in
	// Warnings say, a full sentence each and the field first, what is
	// accepted and not honoured.
	Warnings []string
	// Unknown lists the dotted names of properties that runtime-spec 1.3 does
	// not define. "Runtimes MUST ignore unknown properties" (config.md).
	Unknown []string
}

// Load reads and checks the bundle in dir. It changes nothing.
func Load(dir string) (*Bundle, error) {
	return nil, ErrUnsupported
}

// CheckProcess checks a process object, of config.json or of exec --process.
func CheckProcess(p *specs.Process) (warnings []string, err error) {
	return nil, nil
}

// CheckID refuses what runc refuses as the name of a container.
func CheckID(id string) error {
	return nil
}
