//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm"
	"github.com/runm/runm/libvm/config"
	"github.com/runm/runm/libvm/template"
)

func templateCommand() *cli.Command {
	return &cli.Command{
		Name:  "template",
		Usage: "make, list and remove templates: booted machines that new ones are cloned from",
		// Without it a name that is no subcommand's would be asked for help.
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return fmt.Errorf("template: no such command: %q, want create, list or remove", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
		Subcommands: []*cli.Command{
			{
				Name:  "create",
				Usage: "make the template of a bundle's machine, or of one without limits, beforehand",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "directory whose config.json decides the machine's size"},
				},
				Action: templateCreate,
			},
			{
				Name:   "list",
				Usage:  "list the templates, the most recently used first",
				Flags:  []cli.Flag{formatFlag()},
				Action: templateList,
			},
			{
				Name:      "remove",
				Usage:     "remove templates; machines that were cloned from them go on",
				ArgsUsage: "[KEY...]",
				Flags:     []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "all of them"}},
				Action:    templateRemove,
			},
		},
	}
}

func templateCreate(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "none"); err != nil {
		return err
	}
	cfg, err := config.Load(config.DefaultPath)
	if err != nil {
		return err
	}
	order, err := libvm.TemplateOrder(cfg, c.String("bundle"))
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c.Context)
	defer stop()
	say := func(string, ...any) {}
	if isTerminal(os.Stderr) {
		say = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format, args...) }
	}
	m, began := &order.Machine, time.Now()
	say("booting a machine with CPUs: %d, memory: %d MiB, and waiting until it is idle (5 to 30 s) ... ", m.CPUs, m.MemoryMiB)
	if err := template.Run(ctx, *order); err != nil {
		say("\n")
		return fmt.Errorf("template: %w", err)
	}
	say("ready after %.1f s\n", time.Since(began).Seconds())
	return nil
}

// templateStore is the store of the configuration.
func templateStore() (template.Store, error) {
	cfg, err := config.Load(config.DefaultPath)
	if err != nil {
		return template.Store{}, err
	}
	return libvm.TemplateStore(cfg), nil
}

func templateList(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "none"); err != nil {
		return err
	}
	s, err := templateStore()
	if err != nil {
		return err
	}
	all, err := s.List()
	if err != nil {
		return err
	}
	if err := printTemplates(c.App.Writer, c.String("format"), all); err != nil {
		return err
	}
	f, err := s.LastFailure()
	if err != nil {
		return err
	}
	if f != nil {
		fmt.Fprintf(os.Stderr, "runm: warning: %s\n", lastFailure(f))
	}
	return nil
}

func lastFailure(f *template.Failure) string {
	return fmt.Sprintf("template %s failed at %s: %s", f.Key, f.Time.Format(time.RFC3339), f.Error)
}

func printTemplates(w io.Writer, format string, all []template.About) error {
	switch format {
	case formatTable:
		t := tabwriter.NewWriter(w, 12, 1, 3, ' ', 0)
		fmt.Fprint(t, "KEY\tCPUS\tMEMORY\tNICS\tSHARE\tACCEL\tSIZE\tCREATED\tUSED\n")
		for _, a := range all {
			if a.Bytes == 0 {
				fmt.Fprintf(t, "%s\tbroken\n", a.Key)
				continue
			}
			fmt.Fprintf(t, "%s\t%d\t%d MiB\t%d\t%s\t%s\t%d MiB\t%s\t%s\n", a.Key, a.CPUs, a.MemoryMiB, a.NICs,
				a.Share, a.Accel, a.Bytes>>20, a.Created.Format(time.RFC3339), a.Used.UTC().Format(time.RFC3339))
		}
		return t.Flush()
	case formatJSON:
		if all == nil {
			all = []template.About{} // and not null
		}
		return json.NewEncoder(w).Encode(all)
	default:
		return errFormat
	}
}

func templateRemove(c *cli.Context) error {
	s, err := templateStore()
	if err != nil {
		return err
	}
	keys := c.Args().Slice()
	switch {
	case c.Bool("all") && len(keys) > 0:
		return errors.New("template remove: either --all or keys")
	case c.Bool("all"):
		all, err := s.List()
		if err != nil {
			return err
		}
		for _, a := range all {
			keys = append(keys, a.Key)
		}
		if err := s.Tidy(c.Context); err != nil {
			return err
		}
	case len(keys) == 0:
		return errors.New("template remove: no template is named; `runm template list` shows their keys, --all removes all")
	}
	for _, key := range keys {
		err := s.Remove(key)
		if errors.Is(err, template.ErrNotExist) && c.Bool("all") {
			continue // somebody else was faster
		}
		if err != nil {
			return fmt.Errorf("template %q: %w", key, err)
		}
	}
	return nil
}
