package bundle

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// KnownSeccompActions are the actions of a filter. SCMP_ACT_NOTIFY is missing:
// its listener is a process of the host.
func KnownSeccompActions() []string {
	return []string{
		string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill),
		string(specs.ActKillProcess), string(specs.ActKillThread), string(specs.ActLog),
		string(specs.ActTrace), string(specs.ActTrap),
	}
}

// KnownSeccompOperators are the comparisons of a filter.
func KnownSeccompOperators() []string {
	return []string{
		string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan),
		string(specs.OpLessEqual), string(specs.OpLessThan), string(specs.OpMaskedEqual),
		string(specs.OpNotEqual),
	}
}

// KnownSeccompArchs are the architectures runc 1.4 knows.
func KnownSeccompArchs() []string {
	return []string{
		"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64",
		"SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32",
		"SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64",
		"SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64",
	}
}

// KnownSeccompFlags are the flags of seccomp(2) that a filter may ask for.
// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is missing: it is a listener's.
func KnownSeccompFlags() []string {
	return []string{
		string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagSpecAllow),
		"SECCOMP_FILTER_FLAG_TSYNC",
	}
}

func checkSeccomp(s *specs.LinuxSeccomp) error {
	if s == nil {
		return nil
	}
	const field = "linux.seccomp"
	if s.ListenerPath != "" {
		return refuse(field+".listenerPath", "the listener is a process of the host")
	}
	if s.ListenerMetadata != "" {
		return refuse(field+".listenerMetadata", "the listener is a process of the host")
	}
	// Neither action nor rules is how runc writes "no filter".
	if s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return nil
	}
	if err := checkAction(field+".defaultAction", s.DefaultAction); err != nil {
		return err
	}
	for i, a := range s.Architectures {
		if !slices.Contains(KnownSeccompArchs(), string(a)) {
			return refuse(fmt.Sprintf("%s.architectures[%d]", field, i), fmt.Sprintf("%q", a))
		}
	}
	for i, f := range s.Flags {
		if !slices.Contains(KnownSeccompFlags(), string(f)) {
			return refuse(fmt.Sprintf("%s.flags[%d]", field, i), fmt.Sprintf("%q", f))
		}
	}
	for i, call := range s.Syscalls {
		if err := checkSyscall(fmt.Sprintf("%s.syscalls[%d]", field, i), call); err != nil {
			return err
		}
	}
	return nil
}

func checkSyscall(field string, call specs.LinuxSyscall) error {
	if err := checkAction(field+".action", call.Action); err != nil {
		return err
	}
	for i, a := range call.Args {
		if !slices.Contains(KnownSeccompOperators(), string(a.Op)) {
			return fmt.Errorf("%s.args[%d].op: invalid operator %q", field, i, a.Op)
		}
		if a.Index > 5 {
			return fmt.Errorf("%s.args[%d].index: %d, a system call has 6 arguments", field, i, a.Index)
		}
	}
	return nil
}

func checkAction(field string, a specs.LinuxSeccompAction) error {
	if a == specs.ActNotify {
		return refuse(field, string(a)+": the listener is a process of the host")
	}
	if !slices.Contains(KnownSeccompActions(), string(a)) {
		return fmt.Errorf("%s: invalid action %q", field, a)
	}
	return nil
}
