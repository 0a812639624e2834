// Package config is what the administrator of a machine and the annotations of
// a container may choose about runm: programs, kernel, sizes, limits of time.
//
// Nothing needs to be chosen: the zero file gives a working configuration.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/runm/runm/libvm/vmm"
)

// DefaultPath is where Load's caller finds the administrator's file.
const DefaultPath = "/etc/runm/config.toml"

// Config is the administrator's choice. Default gives the values of an empty
// file; docs/oci-support.md lists the annotations that change it.
type Config struct {
	// Accel says who executes guests; "auto" takes KVM where it is real.
	Accel vmm.Accel `toml:"accel"`
	// Share is "auto", "virtiofs" or "9p"; auto is virtiofs where there is a
	// virtiofsd.
	Share string `toml:"share"`

	// Kernel, Initrd, QEMU and Virtiofsd are absolute paths; "" means that
	// Assets looks in the places an installation uses.
	Kernel    string `toml:"kernel"`
	Initrd    string `toml:"initrd"`
	QEMU      string `toml:"qemu"`
	Virtiofsd string `toml:"virtiofsd"`

	// CPUs is the number of vCPUs of each machine; 0 takes the container's
	// quota, else 1 under TCG and min(host, 4) under KVM.
	CPUs int `toml:"cpus"`
	// MemoryMiB is the guest memory of a container without a memory limit.
	MemoryMiB int `toml:"memory_mib"`
	// GuestOverheadMiB is what kernel and agent need in the guest beside the
	// container's memory limit.
	GuestOverheadMiB int `toml:"guest_overhead_mib"`
	// BootTimeoutSeconds bounds the making of a container: its files, the start
	// of the VMM, and until the agent has created it.
	BootTimeoutSeconds int `toml:"boot_timeout_seconds"`
	// NICs is how many network interfaces a container can have at once. They
	// are part of the machine before anybody knows how many it takes.
	NICs int `toml:"nics"`
	// HostNetwork says what becomes of a container that wants the host's
	// network, which no machine can have: "refuse", or "loopback" for a
	// container with loopback only, and a warning.
	HostNetwork string `toml:"host_network"`
	// Template is "on" or "off": whether machines are cloned from templates, and
	// templates made (docs/templates.md).
	Template string `toml:"template"`
	// TemplateDir is an absolute path on a tmpfs; "" is template.DefaultDir.
	TemplateDir string `toml:"template_dir"`
	// Templates is how many are kept, TemplatesMiB how much memory they may
	// take together; 0 is an eighth of the host's, at most 512.
	Templates    int `toml:"templates"`
	TemplatesMiB int `toml:"templates_mib"`
	// KernelParams is appended to the guest kernel's command line.
	KernelParams []string `toml:"kernel_params"`
	// Annotations are the dev.runm.* annotations that a container may use,
	// without the prefix. "kernel" and "initrd" are not allowed by default:
	// they name host files.
	Annotations []string `toml:"annotations"`
}

// Default is the configuration of a machine without a file.
func Default() Config {
	return Config{
		Accel:              vmm.AccelAuto,
		Share:              ShareAuto,
		MemoryMiB:          512,
		GuestOverheadMiB:   128,
		BootTimeoutSeconds: 60,
		NICs:               4,
		HostNetwork:        HostNetworkRefuse,
		Template:           TemplateOn,
		Templates:          8,
		Annotations:        []string{"accel", "cpus", "host-network", "memory-mib", "nics", "share", "template"},
	}
}

// ShareAuto is the value of Share that lets the host decide.
const ShareAuto = "auto"

// Values of Template.
const (
	TemplateOn  = "on"
	TemplateOff = "off"
)

// Values of HostNetwork.
const (
	HostNetworkRefuse   = "refuse"
	HostNetworkLoopback = "loopback"
)

// BootTimeout is BootTimeoutSeconds as a duration.
func (c Config) BootTimeout() time.Duration {
	return time.Duration(c.BootTimeoutSeconds) * time.Second
}

// Load reads the file at path over Default. A missing file is not an error; a
// key or value that means nothing is, and the error names it.
func Load(path string) (Config, error) {
	c := Default()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	err = toml.NewDecoder(f).DisallowUnknownFields().Decode(&c)
	var unknown *toml.StrictMissingError
	var broken *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		return Config{}, fmt.Errorf("%s: unknown key %s", path, keys(unknown))
	case errors.As(err, &broken):
		line, column := broken.Position()
		return Config{}, fmt.Errorf("%s:%d:%d: %w", path, line, column, err)
	case err != nil:
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// keys lists what a strict decode found no field for.
func keys(e *toml.StrictMissingError) string {
	var names []string
	for _, d := range e.Errors {
		names = append(names, strconv.Quote(strings.Join(d.Key(), ".")))
	}
	return strings.Join(names, ", ")
}

// check refuses values that no machine could be started with.
func (c Config) check() error {
	if err := checkAccel(c.Accel); err != nil {
		return err
	}
	if err := checkShare(c.Share); err != nil {
		return err
	}
	if err := checkHostNetwork(c.HostNetwork); err != nil {
		return err
	}
	if err := checkTemplate(c.Template); err != nil {
		return err
	}
	files := []struct{ key, path string }{
		{"kernel", c.Kernel}, {"initrd", c.Initrd}, {"qemu", c.QEMU}, {"virtiofsd", c.Virtiofsd},
		{"template_dir", c.TemplateDir},
	}
	for _, f := range files {
		if f.path != "" && !filepath.IsAbs(f.path) {
			return fmt.Errorf("%s: %q is not an absolute path", f.key, f.path)
		}
	}
	for _, a := range c.Annotations {
		if !slices.Contains(annotationKeys(), a) {
			return fmt.Errorf("annotations: there is no %s%s", AnnotationPrefix, a)
		}
	}
	numbers := []struct {
		key             string
		value, min, max int
	}{
		{"cpus", c.CPUs, 0, MaxCPUs},
		{"memory_mib", c.MemoryMiB, minMemoryMiB, maxMemoryMiB},
		{"guest_overhead_mib", c.GuestOverheadMiB, 0, maxMemoryMiB},
		{"boot_timeout_seconds", c.BootTimeoutSeconds, 1, 3600},
		{"nics", c.NICs, 0, maxNICs},
		{"templates", c.Templates, 1, maxTemplates},
		{"templates_mib", c.TemplatesMiB, 0, maxMemoryMiB},
	}
	for _, n := range numbers {
		if n.value < n.min || n.value > n.max {
			return fmt.Errorf("%s: %d is not between %d and %d", n.key, n.value, n.min, n.max)
		}
	}
	return nil
}

// Bounds of what a machine may be given. minMemoryMiB is what the guest
// kernel boots with and has room for a container.
const (
	// MaxCPUs is CONFIG_NR_CPUS of guest/kernel: more would not be used.
	MaxCPUs      = 64
	minMemoryMiB = 128
	maxMemoryMiB = 16 << 20
	// maxNICs is what a machine has room for beside stream, entropy and share:
	// microvm has 8 virtio devices. The fifth takes the memory balloon's place.
	maxNICs = 5

	maxTemplates = 1000
)

func checkHostNetwork(s string) error {
	switch s {
	case HostNetworkRefuse, HostNetworkLoopback:
		return nil
	}
	return fmt.Errorf("host_network: %q is none of refuse, loopback", s)
}

func checkTemplate(s string) error {
	switch s {
	case TemplateOn, TemplateOff:
		return nil
	}
	return fmt.Errorf("template: %q is none of on, off", s)
}

func checkAccel(a vmm.Accel) error {
	switch a {
	case vmm.AccelAuto, vmm.AccelKVM, vmm.AccelTCG, vmm.AccelHVF:
		return nil
	}
	return fmt.Errorf("accel: %q is none of auto, kvm, tcg", a)
}

func checkShare(s string) error {
	switch s {
	case ShareAuto, string(vmm.ShareVirtiofs), string(vmm.Share9p):
		return nil
	}
	return fmt.Errorf("share: %q is none of auto, virtiofs, 9p", s)
}
