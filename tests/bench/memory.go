//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runm/runm/tests/bench/report"
)

// Targets in MiB: of an idle container in a group, what would be better, and of
// its holder and monitor together.
const (
	idleTarget  = 60
	idleStretch = 40
	ownTarget   = 25
)

// weight is the memory of one container in MiB. What others share is counted in
// part.
type weight struct {
	holder, monitor, qemu, virtiofsd float64
	// mapped is what the processes have mapped of the guest's memory: what a clone
	// has and has never touched is not in it.
	mapped float64
	// translated is what of qemu is the guest's code, translated: TCG's buffer.
	translated float64
	// guest is the guest's memory, whether or not a process has it mapped.
	guest float64
	// template is the container's part of it.
	template float64
}

// all counts all of the guest's memory, pss what is mapped of it.
func (w weight) all() float64 { return w.own() + w.guest }
func (w weight) pss() float64 { return w.own() + w.mapped }

func (w weight) own() float64 { return w.holder + w.monitor + w.qemu + w.virtiofsd + w.template }

// early is when containers are weighed that have just begun to be idle.
const early = 20 * time.Second

// memory weighs each container of a group, soon after their start and when they
// have been idle for a while.
func memory(ctx context.Context, b *bench, s *report.Section) (err error) {
	s.Rounds = 1
	dir, err := b.sleepBundle()
	if err != nil {
		return err
	}
	before, err := available()
	if err != nil {
		return err
	}
	ids := b.ids(b.group)
	for _, id := range ids {
		remove, err := b.runm.sleeper(ctx, dir, id)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
	}
	if err := rest(ctx, early); err != nil {
		return err
	}
	soon, err := b.weigh(ids)
	if err != nil {
		return err
	}
	if err := rest(ctx, b.idle); err != nil {
		return err
	}
	weights, err := b.weigh(ids)
	if err != nil {
		return err
	}
	after, err := available()
	if err != nil {
		return err
	}
	rowOf := func(name string, weights []weight, pick func(weight) float64) report.Row {
		r := report.Row{Name: name, Unit: "MiB"}
		for _, w := range weights {
			r.Values = append(r.Values, pick(w))
		}
		return r
	}
	row := func(name string, pick func(weight) float64) report.Row { return rowOf(name, weights, pick) }
	s.Rows = append(s.Rows,
		row(fmt.Sprintf("PSS of an idle container, one of %d", b.group), weight.pss).Within(idleTarget, idleStretch),
		row("of it holder and monitor", func(w weight) float64 { return w.holder + w.monitor }).Within(ownTarget, 0),
		row("QEMU", func(w weight) float64 { return w.qemu }),
		row("of it the guest's code, translated", func(w weight) float64 { return w.translated }),
		row("virtiofsd", func(w weight) float64 { return w.virtiofsd }),
		row("the guest's memory, as far as it is mapped", func(w weight) float64 { return w.mapped }),
		row("its part of the template", func(w weight) float64 { return w.template }),
		row("the container with all of the guest's memory", weight.all),
		row("of it the guest's memory", func(w weight) float64 { return w.guest }),
		rowOf(fmt.Sprintf("PSS %v after the last one's start", early), soon, weight.pss),
		rowOf("of it the guest's code, translated", soon, func(w weight) float64 { return w.translated }),
		report.Row{Name: "by what the machine lost of its available memory", Unit: "MiB", Values: []float64{(before - after) / float64(b.group)}})
	return nil
}

// weigh returns the weight of each container.
func (b *bench) weigh(ids []string) ([]weight, error) {
	template, err := b.templateMiB()
	if err != nil {
		return nil, err
	}
	var list []weight
	for _, id := range ids {
		w, err := b.weighOne(id)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		w.template = template / float64(len(ids))
		list = append(list, w)
	}
	return list, nil
}

func (b *bench) weighOne(id string) (w weight, err error) {
	state, err := b.state(id)
	if err != nil {
		return w, err
	}
	pids, err := descendants(state.Monitor.Pid)
	if err != nil {
		return w, err
	}
	pids = append(pids, state.Monitor.Pid, state.Holder.Pid)
	for _, pid := range pids {
		own, shared, err := memoryOf(pid)
		if err != nil {
			return w, err
		}
		w.mapped += shared
		switch pid {
		case state.Holder.Pid:
			w.holder = own
			continue
		case state.Monitor.Pid:
			w.monitor = own
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			return w, err
		}
		switch n := strings.TrimSpace(string(name)); {
		case strings.HasPrefix(n, "qemu-system"):
			w.qemu += own
			code, err := writableCode(pid)
			if err != nil {
				return w, err
			}
			w.translated += code
		case n == "virtiofsd":
			w.virtiofsd += own
		default:
			return w, fmt.Errorf("process %d: %q is neither QEMU nor virtiofsd", pid, n)
		}
	}
	w.guest, err = sharedFiles(pids)
	return w, err
}

// memoryOf is the proportional set size of a process in MiB, in which each shared
// page counts once in all who share it: of anonymous pages and files, and of shared
// memory (proc_pid_smaps(5)).
func memoryOf(pid int) (own, shared float64, err error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	own, shared, err = parseRollup(string(text))
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	return own, shared, nil
}

func parseRollup(text string) (own, shared float64, err error) {
	found := 0
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "Pss_Anon:" && f[0] != "Pss_File:" && f[0] != "Pss_Shmem:" {
			continue
		}
		kib, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return 0, 0, err
		}
		if f[0] == "Pss_Shmem:" {
			shared += kib / 1024
		} else {
			own += kib / 1024
		}
		found++
	}
	if found != 3 {
		return 0, 0, errors.New("want one Pss_Anon, one Pss_File and one Pss_Shmem")
	}
	return own, shared, nil
}

// writableCode is what a process has in mappings that it may write and execute, in
// MiB: what it compiles at run time (proc_pid_smaps(5)).
func writableCode(pid int) (mib float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	return parseWritableCode(string(text))
}

func parseWritableCode(text string) (mib float64, err error) {
	inside := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && !strings.HasSuffix(f[0], ":"): // a mapping's first line
			inside = strings.HasPrefix(f[1], "rwx")
		case inside && len(f) == 3 && f[0] == "Pss:":
			kib, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return 0, err
			}
			mib += kib / 1024
		}
	}
	return mib, nil
}

// sharedFiles is the size in MiB of the tmpfs files without a name that the
// processes have open: the guest's memory. Its pages are not all mapped: what was
// copied from a template lies in the file whether or not the guest touches it.
func sharedFiles(pids []int) (mib float64, err error) {
	type file struct{ dev, ino uint64 }
	var seen []file
	for _, pid := range pids {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			return 0, err
		}
		for _, link := range links {
			var st unix.Stat_t
			var kind unix.Statfs_t
			if err := errors.Join(unix.Stat(link, &st), unix.Statfs(link, &kind)); err != nil {
				continue // closed meanwhile
			}
			f := file{uint64(st.Dev), st.Ino}
			if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 0 || kind.Type != unix.TMPFS_MAGIC || slices.Contains(seen, f) {
				continue
			}
			seen = append(seen, f)
			mib += float64(st.Blocks) * 512 / (1 << 20)
		}
	}
	return mib, nil
}

// descendants are the pids that parent has started, and theirs.
func descendants(parent int) ([]int, error) {
	pids, err := children(parent)
	if err != nil {
		return nil, err
	}
	for _, pid := range slices.Clone(pids) {
		more, err := descendants(pid)
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// children are the pids that parent's threads have started.
func children(parent int) (pids []int, err error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread has ended: another has its children
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", list, err)
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// available is the machine's memory that can be had without swapping, in MiB
// (proc_meminfo(5), MemAvailable).
func available() (float64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc/meminfo: no MemAvailable")
}
