package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Source is what the source of a bind mount is on the host.
type Source struct {
	// Path is absolute and has no symlinks. If Guest is set it is a path of
	// the guest's own instead: a device node or a part of /proc, /sys, /dev.
	Path  string
	Guest bool
	Dir   bool
	// TmpfsBytes is the size of the tmpfs that Path is the top of; 0 if it is
	// none. Clients bind such a directory to /dev/shm.
	TmpfsBytes uint64
	// Submounts: something is mounted below Path.
	Submounts bool
}

// IsBind says whether m is a bind mount. "none" and "" are how clients and
// fstab write the type of one; a type of "bind" alone means it as well.
func IsBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func (c *checker) mounts(mounts []specs.Mount) error {
	c.sources = map[int]Source{}
	for i, m := range mounts {
		if err := c.mount(i, m); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) mount(i int, m specs.Mount) error {
	field := fmt.Sprintf("mounts[%d]", i)
	switch {
	case m.Destination == "":
		return fmt.Errorf("%s.destination: must not be empty", field)
	case !filepath.IsAbs(m.Destination):
		c.warn(field+".destination", "%q is not absolute; it is taken as relative to /.", m.Destination)
	}
	// virtiofsd does not offer FUSE_ALLOW_IDMAP, without which the guest's
	// kernel refuses to map the share's ids.
	if len(m.UIDMappings) > 0 {
		return refuse(field+".uidMappings", "the share cannot be id-mapped")
	}
	if len(m.GIDMappings) > 0 {
		return refuse(field+".gidMappings", "the share cannot be id-mapped")
	}
	if err := c.options(field, m); err != nil {
		return err
	}
	if !IsBind(m) {
		if !slices.Contains(guestFilesystems(), m.Type) {
			return refuse(field+".type", fmt.Sprintf("%q at %s", m.Type, m.Destination))
		}
		return nil
	}
	return c.bind(i, field+".source", m)
}

// options refuses what no mount takes. Options of a file system on a bind
// mount have no meaning; old clients write them, so they are only warned of.
func (c *checker) options(field string, m specs.Mount) error {
	for _, o := range m.Options {
		name, _, _ := strings.Cut(o, "=")
		switch {
		case o == "idmap" || o == "ridmap":
			return refuse(field+".options", o+": the share cannot be id-mapped")
		case slices.Contains(mountFlags(), o), slices.Contains(recursiveFlags(), o), slices.Contains(propagations(), o):
		case !IsBind(m) && slices.Contains(dataOptions(m.Type), name):
		case IsBind(m) && slices.Contains(dataOptions("tmpfs"), name):
			c.warn(field+".options", "%q has no meaning on a bind mount and is not applied.", o)
		case !IsBind(m) && !slices.Contains(guestFilesystems(), m.Type):
			// The type is refused by name; that says more.
		default:
			return fmt.Errorf("%s.options: unknown mount option %q for %s", field, o, m.Destination)
		}
	}
	return nil
}

// bind finds what the source of a bind mount is.
func (c *checker) bind(i int, field string, m specs.Mount) error {
	if m.Source == "" {
		return fmt.Errorf("%s: must not be empty for a bind mount at %s", field, m.Destination)
	}
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(c.dir, source)
	}
	// /proc/self and the like would be resolved for this process, so paths of
	// the kernel's own file systems are judged before symlinks are followed.
	if own, err := c.guestOwn(field, filepath.Clean(source)); own != "" || err != nil {
		c.sources[i] = Source{Path: own, Guest: true}
		return err
	}
	resolved, err := filepath.EvalSymlinks(source)
	if err != nil {
		return sourceError(field, m.Source, err)
	}
	if own, err := c.guestOwn(field, resolved); own != "" || err != nil {
		c.sources[i] = Source{Path: own, Guest: true}
		return err
	}
	st, err := os.Stat(resolved)
	if err != nil {
		return sourceError(field, m.Source, err)
	}
	if st.Mode()&fs.ModeDevice != 0 {
		return refuse(field, resolved+" is a device of the host")
	}
	if st.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
		c.warn(field, "%s is a socket or pipe: the container sees it but cannot reach the host's end of it.", resolved)
	}
	for _, o := range m.Options {
		if o == "shared" || o == "rshared" {
			c.warn(fmt.Sprintf("mounts[%d].options", i), "%q: what is mounted in the container is mounted in the guest alone, and does not come to %s on the host.", o, resolved)
		}
	}
	c.sources[i] = Source{Path: resolved, Dir: st.IsDir(), TmpfsBytes: tmpfsBytes(resolved), Submounts: hasSubmounts(resolved)}
	return nil
}

// sourceError has the text that clients look for.
func sourceError(field, source string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("%s: mount source %q: %w", field, source, err)
}

// guestOwn says which path of the guest stands for path of the host, "" if
// the host's file is what is meant.
func (c *checker) guestOwn(field, path string) (string, error) {
	switch {
	case slices.Contains(standardNodes(), path):
		return path, nil
	case within(path, "/proc"):
		if ofProcess(path) {
			return "", refuse(field, path+" belongs to a process of the host")
		}
	case within(path, "/sys"):
	case within(path, "/dev/shm"):
		// Files of the host; as the whole of /dev/shm the plan decides.
		return "", nil
	case within(path, "/dev"):
		if st, err := os.Stat(path); err != nil || !st.IsDir() {
			return "", nil // sockets, devices, nothing: the caller sees it
		}
	default:
		return "", nil
	}
	c.warn(field, "%s is the guest's own, not the host's.", path)
	return path, nil
}

// ofProcess says whether path, in /proc, describes one process.
func ofProcess(path string) bool {
	rest, below := strings.CutPrefix(path, "/proc/")
	first, _, _ := strings.Cut(rest, "/")
	numeric := strings.Trim(first, "0123456789") == ""
	return below && (numeric || first == "self" || first == "thread-self")
}

// standardNodes are the device nodes that mean the same in every kernel.
func standardNodes() []string {
	return []string{
		"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
		"/dev/fuse", "/dev/net/tun",
	}
}

// within says whether the clean path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}
