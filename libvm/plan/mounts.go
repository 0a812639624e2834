package plan

import (
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/guest/api"
	"github.com/runm/runm/libvm/bundle"
)

// mounts fills in the guest's mounts, in the order of config.json ("The
// runtime MUST mount entries in the listed order"), and the Binds they need. files
// is the container's name in the share.
func (p *Plan) mounts(b *bundle.Bundle, files string) {
	for i, m := range b.Spec.Mounts {
		source, bound := b.Sources[i]
		switch {
		case !bound:
			p.Guest.Mounts = append(p.Guest.Mounts, p.kernelMount(m))
		case source.Guest:
			p.Guest.Mounts = append(p.Guest.Mounts, bindMount(m, source.Path))
		case path.Clean(m.Destination) == "/dev/shm" && source.TmpfsBytes > 0:
			p.Guest.Mounts = append(p.Guest.Mounts, shmMount(m, source))
		default:
			bind := p.bind(files, m, source)
			p.Binds = append(p.Binds, bind)
			p.Guest.Mounts = append(p.Guest.Mounts, writableSubmounts(bindMount(m, path.Join(api.ShareMountpoint, bind.Target)), bind, source))
		}
	}
}

// bind puts a source below the staging directory. The last component is the
// source's own: mountinfo shows it, and the validation suite looks.
func (p *Plan) bind(files string, m specs.Mount, source bundle.Source) Bind {
	name := filepath.Base(source.Path)
	if name == "/" {
		name = "root" // the host's root has no name of its own
	}
	recursive := slices.Contains(m.Options, "rbind")
	return Bind{
		Source:    source.Path,
		Target:    path.Join(api.BindsDir, files, strconv.Itoa(len(p.Binds)), name),
		Dir:       source.Dir,
		Recursive: recursive,
		ReadOnly:  readOnly(m.Options),
	}
}

// readOnly says whether the last of the options that decide it says so.
func readOnly(options []string) bool {
	ro := false
	for _, o := range options {
		switch o {
		case "ro", "rro":
			ro = true
		case "rw", "rrw":
			ro = false
		}
	}
	return ro
}

// bindMount is m with its source in the guest. libcontainer refuses options of
// a file system on a bind mount, which bundle.Load warned of.
func bindMount(m specs.Mount, source string) specs.Mount {
	var options []string
	known := bundle.KnownMountOptions()
	for _, o := range m.Options {
		if slices.Contains(known, o) && o != "defaults" {
			options = append(options, o)
		}
	}
	if !slices.Contains(options, "bind") && !slices.Contains(options, "rbind") {
		options = append([]string{"bind"}, options...)
	}
	return specs.Mount{Destination: m.Destination, Type: "bind", Source: source, Options: options}
}

// writableSubmounts is m without "ro" where that would hold for more than the
// bind's own mount: in the guest the submounts of the host are one file system
// with it. There the bind's own mount is read-only on the host's side.
func writableSubmounts(m specs.Mount, b Bind, source bundle.Source) specs.Mount {
	if !b.Recursive || !b.ReadOnly || !source.Submounts || slices.Contains(m.Options, "rro") {
		return m
	}
	m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
	return m
}

// kernelMount is a mount of a file system of the guest's kernel. libcontainer
// would hand "defaults" to the file system, which does not know it.
func (p *Plan) kernelMount(m specs.Mount) specs.Mount {
	options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "defaults" })
	// A user namespace may only mount a sysfs if it owns the network
	// namespace, which here is the guest's: bind the guest's own.
	if m.Type == "sysfs" && p.newUser() {
		return bindMount(specs.Mount{Destination: m.Destination, Options: append([]string{"rbind"}, options...)}, "/sys")
	}
	return specs.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: options}
}

func (p *Plan) newUser() bool {
	isUser := func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }
	return slices.ContainsFunc(p.Guest.Linux.Namespaces, isUser)
}

// shmMount is a tmpfs of the guest's in place of one that the client made on the
// host: POSIX shared memory needs one kernel and one cache. Containers of a
// machine that are given the same one share it, as they would on the host.
func shmMount(m specs.Mount, source bundle.Source) specs.Mount {
	options := []string{"bind"}
	for _, o := range m.Options {
		if o != "bind" && o != "rbind" && o != "defaults" && !strings.Contains(o, "=") {
			options = append(options, o)
		}
	}
	return specs.Mount{
		Destination: m.Destination, Type: "bind", Options: options,
		Source: path.Join(api.ShmDir, strconv.FormatUint(source.TmpfsBytes, 10), source.Path),
	}
}
