//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/vmm"
	"github.com/runm/runm/tests/bench/report"
)

const (
	// filesTarget is the part of the bare machine's speed that a container must
	// reach.
	filesTarget = 0.9
	// smallFiles is how many small files are created and deleted.
	smallFiles = 500
	// dirFiles is how many files a directory of the tree has.
	dirFiles = 50
	// volume is where the container has the directory.
	volume = "/volume"
)

// step is what the guest's program did between two lines.
type step struct {
	name    string
	done    string // how much, in its own words
	seconds float64
	cpu     float64 // of all processes of the machine
}

// files compares a volume's files with those of a bare machine that has the same
// kernel, virtiofsd and directory, and runs the same program.
func files(ctx context.Context, b *bench, s *report.Section) error {
	program, err := b.buildGo(ctx, "files")
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "files")
	mib, err := makeTree(filepath.Join(dir, "tree"), b.files)
	if err != nil {
		return fmt.Errorf("tree: %w", err)
	}
	initrd := filepath.Join(b.dir, "files.cpio")
	err = errors.Join(packProgram(program, initrd), copyFile(program, filepath.Join(b.rootfs, "bin/files")))
	if err != nil {
		return err
	}
	var all [2][][]step
	for range b.rounds {
		for i, take := range []func(context.Context) ([]step, error){
			func(ctx context.Context) ([]step, error) { return b.bareFiles(ctx, initrd, dir) },
			func(ctx context.Context) ([]step, error) { return b.runFiles(ctx, dir) },
		} {
			steps, err := take(ctx)
			if err != nil {
				return err
			}
			all[i] = append(all[i], steps)
		}
	}
	return fileRows(s, all, []string{
		fmt.Sprintf("find over %d files, the first time", b.files),
		"find over them again",
		fmt.Sprintf("read all, as tar does (%.0f MiB)", mib),
		fmt.Sprintf("create and delete %d files of 4 KiB", smallFiles),
	})
}

// fileRows adds a row for each step: all[0] are the floor's rounds, all[1] runm's.
func fileRows(s *report.Section, all [2][][]step, names []string) error {
	for i, name := range names {
		row := report.Row{Name: name, Unit: "s", FloorName: "a bare machine with the same virtiofsd"}
		for who, rounds := range all {
			for _, steps := range rounds {
				if len(steps) != len(names) {
					return fmt.Errorf("%d steps, want %d: %v", len(steps), len(names), steps)
				}
				if want := all[0][0][i]; steps[i].name != want.name || steps[i].done != want.done {
					return fmt.Errorf("one guest did %s %s, another %s %s", want.name, want.done, steps[i].name, steps[i].done)
				}
				if who == 0 {
					row.Floor, row.FloorCPU = append(row.Floor, steps[i].seconds), append(row.FloorCPU, steps[i].cpu)
				} else {
					row.Values, row.CPU = append(row.Values, steps[i].seconds), append(row.CPU, steps[i].cpu)
				}
			}
		}
		s.Rows = append(s.Rows, row.Aim(fmt.Sprintf("at least %g of its speed", filesTarget), row.Ratio() <= 1/filesTarget))
	}
	return nil
}

// makeTree makes n files of 1 to 47 KiB in directories of dirFiles each, always
// the same ones, and returns how many MiB they have.
func makeTree(dir string, n int) (mib float64, err error) {
	content := bytes.Repeat([]byte("runm bench file\n"), 47<<10/16)
	for i := range n {
		name := filepath.Join(dir, fmt.Sprintf("%03d", i/dirFiles), fmt.Sprintf("file-%02d", i%dirFiles))
		if i%dirFiles == 0 {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				return 0, err
			}
		}
		size := (1 + i*29%47) << 10
		if err := os.WriteFile(name, content[:size], 0o644); err != nil {
			return 0, err
		}
		mib += float64(size) / (1 << 20)
	}
	return mib, nil
}

func (b *bench) bareFiles(ctx context.Context, initrd, dir string) (steps []step, err error) {
	cfg := b.floorConfig(initrd, dir)
	// The kernel makes them init's environment.
	cfg.Cmdline = append(cfg.Cmdline, "TAG="+cfg.Shares[0].Tag, fmt.Sprintf("SMALL=%d", smallFiles))
	err = b.withMachine(ctx, cfg, func(ctx context.Context, m vmm.Machine) error {
		stream, err := m.Dial(ctx)
		if err != nil {
			return err
		}
		defer stream.Close()
		steps, err = readSteps(stream, func() ([]int, error) { return m.(vmm.Processes).Pids(), nil })
		return err
	})
	return steps, err
}

func (b *bench) runFiles(ctx context.Context, dir string) (steps []step, err error) {
	s := b.spec([]string{"/bin/files"})
	s.Process.Env = append(s.Process.Env, "DIR="+volume, fmt.Sprintf("SMALL=%d", smallFiles))
	s.Mounts = append(s.Mounts, specs.Mount{Destination: volume, Type: "bind", Source: dir, Options: []string{"rbind", "rw"}})
	bundle, err := b.write("files", s)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(ctx, machineTime)
	defer cancel()
	id := b.id()
	cmd := b.runm.command(ctx, "run", "--bundle", bundle, id)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &said
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	steps, err = readSteps(r, func() ([]int, error) {
		state, err := b.state(id)
		if err != nil {
			return nil, err
		}
		pids, err := descendants(state.Monitor.Pid)
		return append(pids, state.Monitor.Pid), err
	})
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("runm run of the files: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return steps, nil
}

// lastStep is the name of the last thing that the guest's program does.
const lastStep = "small"

// readSteps reads the guest's lines until the last step's. pids, asked at the
// first line, are the machine's processes.
func readSteps(r io.Reader, pids func() ([]int, error)) (steps []step, err error) {
	lines := bufio.NewScanner(r)
	var list []int
	var at time.Time
	var cpu float64
	for lines.Scan() {
		arrived := time.Now()
		name, done, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			return nil, fmt.Errorf("the guest's program said %q", lines.Text())
		}
		if list == nil {
			if list, err = pids(); err != nil {
				return nil, err
			}
		}
		total, err := processorTime(list)
		if err != nil {
			return nil, err
		}
		if !at.IsZero() {
			steps = append(steps, step{name, done, arrived.Sub(at).Seconds(), total - cpu})
		}
		at, cpu = arrived, total
		if name == lastStep {
			return steps, nil
		}
	}
	return nil, errors.Join(lines.Err(), fmt.Errorf("the guest's program ended after %d steps", len(steps)))
}
