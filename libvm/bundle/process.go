package bundle

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// CheckProcess checks a process object, of config.json or of exec --process.
func CheckProcess(p *specs.Process) (warnings []string, err error) {
	if err := checkNull("process", reflect.ValueOf(p)); err != nil {
		return nil, err
	}
	var c checker
	err = c.process(p)
	return c.warnings, err
}

func (c *checker) process(p *specs.Process) error {
	if p == nil {
		return errors.New("process property must not be empty")
	}
	if len(p.Args) == 0 {
		return errors.New("process.args must not be empty")
	}
	if p.Cwd == "" {
		return errors.New("process.cwd property must not be empty")
	}
	if !filepath.IsAbs(p.Cwd) {
		return fmt.Errorf("process.cwd must be an absolute path: %q", p.Cwd)
	}
	if err := checkRlimits(p.Rlimits); err != nil {
		return err
	}
	if a := p.OOMScoreAdj; a != nil && (*a < -1000 || *a > 1000) {
		return fmt.Errorf("process.oomScoreAdj: %d is not between -1000 and 1000", *a)
	}
	if err := checkScheduler(p.Scheduler); err != nil {
		return err
	}
	if err := checkIOPriority(p.IOPriority); err != nil {
		return err
	}
	c.capabilities(p.Capabilities)
	c.ignoredProcess(p)
	return nil
}

// ignoredProcess names what clients set by habit and nobody honours.
func (c *checker) ignoredProcess(p *specs.Process) {
	if p.ApparmorProfile != "" {
		c.warn("process.apparmorProfile", "%q is not applied: the guest's kernel has no AppArmor.", p.ApparmorProfile)
	}
	if p.SelinuxLabel != "" {
		c.warn("process.selinuxLabel", "%q is not applied: the guest's kernel has no SELinux.", p.SelinuxLabel)
	}
	if a := p.ExecCPUAffinity; a != nil {
		if a.Initial != "" {
			c.warn("process.execCPUAffinity.initial", "%q names CPUs of the host and is not applied in the guest.", a.Initial)
		}
		if a.Final != "" {
			c.warn("process.execCPUAffinity.final", "%q names CPUs of the host and is not applied in the guest.", a.Final)
		}
	}
	if p.CommandLine != "" {
		c.warn("process.commandLine", "is for Windows and not used.")
	}
	if p.User.Username != "" {
		c.warn("process.user.username", "is for Windows and not used; the uid counts.")
	}
}

// capabilities warns, as runc does, of names no kernel has. A name that is
// dropped from a set can only take a privilege away.
func (c *checker) capabilities(caps *specs.LinuxCapabilities) {
	if caps == nil {
		return
	}
	known := KnownCapabilities()
	unknown := map[string]bool{}
	for _, set := range [][]string{caps.Bounding, caps.Effective, caps.Inheritable, caps.Permitted, caps.Ambient} {
		for _, name := range set {
			if !slices.Contains(known, name) {
				unknown[name] = true
			}
		}
	}
	if len(unknown) > 0 {
		names := slices.Sorted(maps.Keys(unknown))
		c.warn("process.capabilities", "ignoring unknown or unavailable capabilities %s.", strings.Join(names, ", "))
	}
}

// KnownCapabilities are the names that may stand in process.capabilities.
func KnownCapabilities() []string {
	var names []string
	for _, known := range capability.ListKnown() {
		names = append(names, "CAP_"+strings.ToUpper(known.String()))
	}
	return names
}

func checkRlimits(limits []specs.POSIXRlimit) error {
	known := []string{
		"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS",
		"RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC",
		"RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
	}
	seen := map[string]bool{}
	for i, l := range limits {
		field := fmt.Sprintf("process.rlimits[%d]", i)
		if !slices.Contains(known, l.Type) {
			return fmt.Errorf("%s.type: wrong rlimit value: %s", field, l.Type)
		}
		// "If rlimits contains duplicated entries with same type, the runtime
		// MUST generate an error" (config.md).
		if seen[l.Type] {
			return fmt.Errorf("%s.type: %s is there twice", field, l.Type)
		}
		seen[l.Type] = true
		if l.Soft > l.Hard {
			return fmt.Errorf("%s: soft limit %d is above the hard limit %d", field, l.Soft, l.Hard)
		}
	}
	return nil
}

// checkScheduler has the rules of sched_setattr(2).
func checkScheduler(s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	const field = "process.scheduler"
	switch s.Policy {
	case "":
		return errors.New(field + ".policy: scheduler policy is required")
	case specs.SchedOther, specs.SchedBatch:
		if s.Nice < -20 || s.Nice > 19 {
			return fmt.Errorf("%s.nice: %d is not between -20 and 19", field, s.Nice)
		}
	case specs.SchedFIFO, specs.SchedRR, specs.SchedIdle, specs.SchedDeadline:
	default: // Linux has no SCHED_ISO either
		return refuse(field+".policy", string(s.Policy))
	}
	if s.Priority != 0 && s.Policy != specs.SchedFIFO && s.Policy != specs.SchedRR {
		return errors.New(field + ".priority: can only be specified for SCHED_FIFO or SCHED_RR")
	}
	if s.Policy != specs.SchedDeadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0) {
		return errors.New(field + ": runtime, deadline and period can only be specified for SCHED_DEADLINE")
	}
	for i, f := range s.Flags {
		switch f {
		case specs.SchedFlagResetOnFork, specs.SchedFlagReclaim, specs.SchedFlagDLOverrun,
			specs.SchedFlagKeepPolicy, specs.SchedFlagKeepParams,
			specs.SchedFlagUtilClampMin, specs.SchedFlagUtilClampMax:
		default:
			return refuse(fmt.Sprintf("%s.flags[%d]", field, i), string(f))
		}
	}
	return nil
}

func checkIOPriority(p *specs.LinuxIOPriority) error {
	if p == nil {
		return nil
	}
	switch p.Class {
	case specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE:
	default:
		return fmt.Errorf("process.ioPriority.class: invalid class %q", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return fmt.Errorf("process.ioPriority.priority: %d is not between 0 and 7", p.Priority)
	}
	return nil
}
