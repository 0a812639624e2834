package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/runm/runm/libvm/vmm"
)

// AnnotationPrefix is what the annotations that concern runm begin with.
const AnnotationPrefix = "dev.runm."

// annotationKeys are all the annotations there are, without the prefix.
// Whether one may be used is up to Config.Annotations.
func annotationKeys() []string {
	return []string{"accel", "cpus", "host-network", "initrd", "kernel", "memory-mib", "nics", "share", "template"}
}

// WithAnnotations returns c changed by the dev.runm.* annotations among
// annotations, which must be on c's list. Others are not looked at.
func (c Config) WithAnnotations(annotations map[string]string) (Config, error) {
	// Sorted, so that of two mistakes it is always the same one that is
	// reported.
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		key, ours := strings.CutPrefix(name, AnnotationPrefix)
		if !ours {
			continue
		}
		if !slices.Contains(annotationKeys(), key) {
			return Config{}, fmt.Errorf("annotation %s: there is no such annotation", name)
		}
		if !slices.Contains(c.Annotations, key) {
			return Config{}, fmt.Errorf("annotation %s: not allowed by the configuration of this machine", name)
		}
		if err := c.set(key, annotations[name]); err != nil {
			return Config{}, fmt.Errorf("annotation %s: %w", name, err)
		}
	}
	return c, nil
}

// set applies one annotation.
func (c *Config) set(key, value string) error {
	var err error
	switch key {
	case "accel":
		c.Accel = vmm.Accel(value)
		return checkAccel(c.Accel)
	case "share":
		c.Share = value
		return checkShare(value)
	case "cpus":
		c.CPUs, err = number(value, 1, MaxCPUs)
	case "host-network":
		c.HostNetwork = value
		return checkHostNetwork(value)
	case "template":
		c.Template = value
		return checkTemplate(value)
	case "nics":
		c.NICs, err = number(value, 0, maxNICs)
	case "memory-mib":
		c.MemoryMiB, err = number(value, minMemoryMiB, maxMemoryMiB)
	case "kernel":
		c.Kernel, err = absolute(value)
	case "initrd":
		c.Initrd, err = absolute(value)
	default:
		panic("config: annotation without a case: " + key)
	}
	return err
}

func number(s string, min, max int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < min || n > max {
		return 0, fmt.Errorf("%q is not a number between %d and %d", s, min, max)
	}
	return n, nil
}

func absolute(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is not an absolute path", path)
	}
	return path, nil
}
