//go:build linux

package main

import (
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/urfave/cli/v2"

	"github.com/runm/runm/libvm/bundle"
	"github.com/runm/runm/libvm/cgroup"
	"github.com/runm/runm/libvm/config"
)

// versionAnnotation tells clients whose features these are.
const versionAnnotation = "org.opencontainers.runm.version"

func featuresCommand() *cli.Command {
	return &cli.Command{
		Name:        "features",
		Usage:       "print what is supported as JSON",
		Description: "The format is the runtime-spec's features.md.",
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0, "none"); err != nil {
				return err
			}
			enc := json.NewEncoder(c.App.Writer)
			enc.SetIndent("", "    ")
			return enc.Encode(supported())
		},
	}
}

// supported is what config.json may ask for. What bundle.Load refuses must not
// be here: CRI offers its users what it finds.
func supported() *features.Features {
	yes, no := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks: []string{
			"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
		},
		MountOptions: bundle.KnownMountOptions(),
		Linux: &features.Linux{
			Namespaces:   bundle.KnownNamespaces(),
			Capabilities: bundle.KnownCapabilities(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &no},
			Seccomp: &features.Seccomp{
				Enabled:   &yes,
				Actions:   bundle.KnownSeccompActions(),
				Operators: bundle.KnownSeccompOperators(),
				Archs:     bundle.KnownSeccompArchs(),
				// The guest's kernel is ours and has them all.
				KnownFlags:     bundle.KnownSeccompFlags(),
				SupportedFlags: bundle.KnownSeccompFlags(),
			},
			Apparmor:        &features.Apparmor{Enabled: &no},
			Selinux:         &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &no}},
			NetDevices:      &features.NetDevices{Enabled: &no},
		},
		Annotations: map[string]string{versionAnnotation: version},
		// The first choose the machine; the configuration says which are allowed.
		PotentiallyUnsafeConfigAnnotations: []string{config.AnnotationPrefix, cgroup.PropertyPrefix},
	}
}

func printVersion(c *cli.Context) {
	fmt.Fprintf(c.App.Writer, "runm version %s\nspec: %s\n", version, specs.Version)
}
