// Package bundle reads an OCI bundle and checks its config.json: what comes
// out of Load is complete, well-formed, and contains nothing that nobody would
// honour. docs/oci-support.md has one row for each field.
//
// The checks read the host (does a mount's source exist, which huge pages are
// there) and change nothing.
package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
	// Sources has, for each bind mount, what its source is on the host, by
	// the mount's index in Spec.Mounts. Sources the guest takes from its own
	// kernel (/proc, /sys, /dev) are among them, see Source.Guest.
	Sources map[int]Source
	// Warnings say, a full sentence each and the field first, what is
	// accepted and not honoured.
	Warnings []string
	// Unknown lists the dotted names of properties that runtime-spec 1.3 does
	// not define. "Runtimes MUST ignore unknown properties" (config.md).
	Unknown []string
}

// configName is the file's name in the bundle, config.md of the runtime-spec.
const configName = "config.json"

// Load reads and checks the bundle in dir, "" being the working directory.
// It changes nothing.
func Load(dir string) (*Bundle, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, configName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file %s not found", configName)
	}
	if err != nil {
		return nil, err
	}
	spec, err := decode(data)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Dir: dir, Spec: spec, Unknown: unknownProperties(data)}
	c := checker{dir: dir, hugepages: "/sys/kernel/mm/hugepages"}
	if err := c.spec(spec); err != nil {
		return nil, err
	}
	if b.Rootfs, err = rootfs(dir, spec.Root); err != nil {
		return nil, err
	}
	b.Sources, b.Warnings = c.sources, c.warnings
	return b, nil
}

// resolve does what runc's chdir and getcwd do to the bundle's path.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("bundle: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", fmt.Errorf("bundle: %w", err)
	}
	return dir, nil
}

// rootfs finds the root filesystem, relative to the bundle.
func rootfs(dir string, root *specs.Root) (string, error) {
	if root == nil {
		return "", errors.New("root must be specified")
	}
	if root.Path == "" {
		return "", errors.New("root.path: must not be empty")
	}
	path := root.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	// "A directory MUST exist at the path declared by the field" (config.md).
	resolved, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("root.path: rootfs does not exist: %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("root.path: %w", err)
	}
	st, err := os.Stat(resolved)
	if err != nil {
		return "", fmt.Errorf("root.path: %w", err)
	}
	if !st.IsDir() {
		return "", fmt.Errorf("root.path: %s: not a directory", path)
	}
	return resolved, nil
}

// maxID bounds a container's name: it names a directory here, in the guest's
// cgroup and below the share (NAME_MAX is 255).
const maxID = 255

// CheckID refuses what runc refuses as the name of a container.
func CheckID(id string) error {
	valid := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("_+-.", r)
	}
	invalid := func(r rune) bool { return !valid(r) }
	if id == "" || id == "." || id == ".." || strings.ContainsFunc(id, invalid) {
		return fmt.Errorf("%w: %q", ErrInvalidID, id)
	}
	if len(id) > maxID {
		return fmt.Errorf("%w: %q is longer than %d bytes", ErrInvalidID, id, maxID)
	}
	return nil
}
