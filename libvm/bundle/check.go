package bundle

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// checker goes through a spec, stops at the first error and collects what is
// accepted without being honoured. Each field of the spec is either looked at
// by one of its methods or needs no check.
type checker struct {
	dir       string // of the bundle; relative mount sources start here
	hugepages string // the kernel's directory of huge page sizes
	warnings  []string
	sources   map[int]Source
}

// warn notes that field is accepted and not honoured.
func (c *checker) warn(field, format string, args ...any) {
	c.warnings = append(c.warnings, field+": "+fmt.Sprintf(format, args...))
}

// refuse is the error for a field that nobody would honour.
func refuse(field, why string) error {
	return fmt.Errorf("%s: %w: %s", field, ErrUnsupported, why)
}

func (c *checker) spec(s *specs.Spec) error {
	if err := checkVersion(s.Version); err != nil {
		return err
	}
	if err := checkPlatforms(s); err != nil {
		return err
	}
	if err := checkNull("", reflect.ValueOf(s)); err != nil {
		return err
	}
	if err := c.process(s.Process); err != nil {
		return err
	}
	if err := c.mounts(s.Mounts); err != nil {
		return err
	}
	if err := checkHooks(s.Hooks); err != nil {
		return err
	}
	if s.Linux == nil {
		return checkHostname(s, nil)
	}
	if err := checkHostname(s, s.Linux.Namespaces); err != nil {
		return err
	}
	return c.linux(s)
}

// checkVersion takes any 1.x: "ociVersion MUST be in SemVer v2.0.0 format", and
// a configuration of a later minor version is still of our major one.
func checkVersion(v string) error {
	if v == "" {
		return errors.New("ociVersion: must not be empty")
	}
	core, _, _ := strings.Cut(v, "+")
	core, pre, dashed := strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	ok := len(parts) == 3 && (!dashed || pre != "")
	for _, p := range parts {
		_, err := strconv.ParseUint(p, 10, 32)
		ok = ok && err == nil && (p == "0" || !strings.HasPrefix(p, "0"))
	}
	if !ok {
		return fmt.Errorf("ociVersion: %q is not a semantic version", v)
	}
	if parts[0] != "1" {
		return refuse("ociVersion", fmt.Sprintf("%q is not of version 1", v))
	}
	return nil
}

func checkPlatforms(s *specs.Spec) error {
	switch {
	case s.Windows != nil:
		return refuse("windows", "containers are Linux containers")
	case s.Solaris != nil:
		return refuse("solaris", "containers are Linux containers")
	case s.ZOS != nil:
		return refuse("zos", "containers are Linux containers")
	case s.FreeBSD != nil:
		return refuse("freebsd", "containers are Linux containers")
	case s.VM != nil:
		return refuse("vm", "the machine is chosen with dev.runm.* annotations and the configuration")
	}
	return nil
}

// checkHostname has runc's rule and texts.
func checkHostname(s *specs.Spec, namespaces []specs.LinuxNamespace) error {
	uts := has(namespaces, specs.UTSNamespace)
	if s.Hostname != "" && !uts {
		return errors.New("hostname: unable to set hostname without a private UTS namespace")
	}
	if s.Domainname != "" && !uts {
		return errors.New("domainname: unable to set domainname without a private UTS namespace")
	}
	return nil
}

func has(namespaces []specs.LinuxNamespace, t specs.LinuxNamespaceType) bool {
	for _, n := range namespaces {
		if n.Type == t {
			return true
		}
	}
	return false
}

// checkNull refuses a null byte in any string but annotations: the kernel's
// interfaces would cut the string there.
func checkNull(path string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return checkNull(path, v.Elem())
		}
	case reflect.String:
		if strings.ContainsRune(v.String(), 0) {
			return fmt.Errorf("%s: contains a null byte", path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkNull(fmt.Sprintf("%s[%d]", path, i), v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			name := fmt.Sprintf("%s.%s", path, k)
			if err := checkNull(name, k); err != nil {
				return err
			}
			if err := checkNull(name, v.MapIndex(k)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if name == "annotations" {
				continue
			}
			if err := checkNull(strings.TrimPrefix(path+"."+name, "."), v.Field(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	lists := []struct {
		name  string
		hooks []specs.Hook
	}{
		{"prestart", h.Prestart}, //nolint:staticcheck // deprecated, and used by Docker
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	}
	for _, l := range lists {
		for i, hook := range l.hooks {
			field := fmt.Sprintf("hooks.%s[%d]", l.name, i)
			if !filepath.IsAbs(hook.Path) {
				return fmt.Errorf("%s.path: %q is not an absolute path", field, hook.Path)
			}
			// "If set, timeout MUST be greater than zero" (config.md).
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return fmt.Errorf("%s.timeout: %d is not greater than zero", field, *hook.Timeout)
			}
		}
	}
	return nil
}
