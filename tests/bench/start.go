//go:build linux

package main

import (
	"context"
	"errors"

	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/tests/bench/report"
)

const (
	// coldTarget is how many times the bare machine's boot a container may take.
	coldTarget = 1.5
	// warmTarget is how many times the cold run a warm one may take.
	warmTarget = 0.5
)

// templateAnnotation turns templates off for a container.
const templateAnnotation = config.AnnotationPrefix + "template"

// hasTemplates says whether this runm knows of templates.
func hasTemplates() bool {
	_, err := config.Default().WithAnnotations(map[string]string{templateAnnotation: "off"})
	return err == nil
}

// coldBundle runs /bin/true in a machine that is booted.
func (b *bench) coldBundle() (string, error) {
	if !hasTemplates() {
		return b.trueBundle()
	}
	s := b.spec([]string{"/bin/true"})
	s.Annotations[templateAnnotation] = "off"
	return b.write("cold", s)
}

// starts compares `run` of /bin/true with what the machine alone takes, and with
// other runtimes.
func starts(ctx context.Context, b *bench, s *report.Section) (err error) {
	defer func() { err = errors.Join(err, b.tidyPeers()) }()
	coldDir, err := b.coldBundle()
	if err != nil {
		return err
	}
	dir, err := b.trueBundle()
	if err != nil {
		return err
	}
	run := func(r oci, dir string) func() (float64, error) {
		return func() (float64, error) { return r.runBundle(ctx, dir, b.id()) }
	}
	list := []contender{
		{name: "bare boot", take: func() (float64, error) { return b.bareBoot(ctx) }},
		{name: "cold run", take: run(b.runm, coldDir)},
	}
	if hasTemplates() {
		list = append(list, contender{name: "warm run", take: run(b.runm, dir)})
	}
	peers := b.peers()
	for _, p := range peers {
		version, err := p.version(ctx)
		if err != nil {
			return err
		}
		s.Notes = append(s.Notes, version)
	}
	first := len(list)
	for _, p := range peers {
		list = append(list, contender{name: p.name, take: run(p, dir), optional: true})
	}
	all, err := b.turns(s, list)
	if err != nil {
		return err
	}
	cold := report.Row{
		Name: "`runm run`, cold", Unit: "ms", Values: all[1].values, CPU: all[1].cpu,
		FloorName: "bare QEMU, boot to a trivial init", Floor: all[0].values, FloorCPU: all[0].cpu,
	}.AtMost(coldTarget, 0)
	s.Rows = append(s.Rows, cold)
	if hasTemplates() {
		warm := report.Row{Name: "`runm run`, warm", Unit: "ms", Values: all[2].values, CPU: all[2].cpu}
		against := warm
		against.Name, against.NoBar = "the same; floor: the cold one", true
		against.Floor, against.FloorCPU = cold.Values, cold.CPU
		s.Rows = append(s.Rows, warm, against.AtMost(warmTarget, 0))
	}
	s.Rows = append(s.Rows, peerRows("run", peers, all[first:])...)
	return nil
}

// peerRows are what other runtimes took for a command.
func peerRows(command string, peers []oci, all []taken) (rows []report.Row) {
	for i, p := range peers {
		if len(all[i].values) > 0 {
			rows = append(rows, report.Row{
				Name: "`" + p.name + " " + command + "`", Unit: "ms", Kind: report.KindPeer, Values: all[i].values, CPU: all[i].cpu,
			})
		}
	}
	return rows
}
