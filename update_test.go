//go:build linux

package main

import (
	"encoding/json"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

func resources(t *testing.T, text string) *specs.LinuxResources {
	t.Helper()
	r, err := decodeResources(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

func TestFlagResources(t *testing.T) {
	for in, want := range map[string]string{
		"": `{"memory":{},"cpu":{},"pids":{},"blockIO":{}}`,
		"--memory 64M --memory-swap -1 --memory-reservation 1024": `{"memory":{"limit":67108864,"reservation":1024,"swap":-1},"cpu":{},"pids":{},"blockIO":{}}`,
		"--cpu-quota -1 --cpu-period 1000 --cpu-share 2 --cpu-burst 3 --cpu-idle 1 --cpuset-cpus 0-1 --cpuset-mems 0": `{"memory":{},` +
			`"cpu":{"shares":2,"quota":-1,"burst":3,"period":1000,"cpus":"0-1","mems":"0","idle":1},"pids":{},"blockIO":{}}`,
		"--pids-limit 0 --blkio-weight 10":      `{"memory":{},"cpu":{},"pids":{"limit":0},"blockIO":{"weight":10}}`,
		"--cpu-rt-period 5 --cpu-rt-runtime -6": `{"memory":{},"cpu":{"realtimeRuntime":-6,"realtimePeriod":5},"pids":{},"blockIO":{}}`,
		"--kernel-memory 1M":                    `{"memory":{},"cpu":{},"pids":{},"blockIO":{}}`,
		"--memory lots":                         "invalid value for memory: invalid size: 'lots'",
		"--cpu-share -1":                        `invalid value for cpu-share: strconv.ParseUint: parsing "-1": invalid syntax`,
		"--cpu-idle x":                          `invalid value for cpu-idle: strconv.ParseInt: parsing "x": invalid syntax`,
		"--blkio-weight 9":                      "invalid value for blkio-weight: 9 is not between 10 and 1000",
	} {
		cmd := updateCommand()
		var got string
		cmd.Action = func(c *cli.Context) error {
			r, err := flagResources(c)
			if err != nil {
				got = err.Error()
				return nil
			}
			out, err := json.Marshal(r)
			got = string(out)
			return err
		}
		app := &cli.App{Commands: []*cli.Command{cmd}}
		if err := app.Run(append([]string{"runm", "update"}, strings.Fields(in)...)); err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestDecodeResourcesRefuses(t *testing.T) {
	for _, text := range []string{"", "[]", `{"memory":`, `{"memory":{"limit":"64M"}}`} {
		if _, err := decodeResources(strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), "--resources: ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What update cannot change it names.
func TestUnchangeable(t *testing.T) {
	given := resources(t, `{"pids":{"limit":1},"devices":[{"allow":true,"access":"r"}],"hugepageLimits":[{"pageSize":"2MB","limit":0}],"network":{"classID":1},"rdma":{"x":{}}}`)
	if got, want := strings.Join(unchangeable(given), " "), "devices hugepageLimits network rdma"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := unchangeable(resources(t, `{"pids":{"limit":1},"devices":[]}`)); got != nil {
		t.Errorf("%q, want none", got)
	}
}
