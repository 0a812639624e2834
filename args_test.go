//go:build linux

package main

import (
	"strings"
	"testing"
)

func TestFlagsFirst(t *testing.T) {
	app := newApp(&logging{}, &tracing{})
	for in, want := range map[string]string{
		"delete c1 --force":                       "delete --force c1",
		"--root /r --debug delete c1 -f":          "--root /r --debug delete -f c1",
		"--root=/r update c1 --memory 1 -r -":     "--root=/r update --memory 1 -r - c1",
		"update c1 --memory-swap -1 --cpu-idle=1": "update --memory-swap -1 --cpu-idle=1 c1",
		"kill c1 -9":                   "kill c1 -9",
		"kill c1 KILL --all":           "kill --all c1 KILL",
		"delete -- c1 --force":         "delete -- c1 --force",
		"delete c1 --bogus":            "delete c1 --bogus",
		"exec c1 ls --tty":             "exec c1 ls --tty",
		"ps c1 --format json":          "ps c1 --format json",
		"restore -no-subreaper c1":     "restore -no-subreaper c1",
		"run c1 -no-subreaper --keep":  "run -no-subreaper --keep c1",
		"state":                        "state",
		"state c1 --help":              "state --help c1",
		"create c1 --pid-file":         "create --pid-file c1",
		"--bogus delete c1 --force":    "--bogus delete --force c1",
		"bogus c1 --force":             "bogus c1 --force",
		"":                             "",
		"create --bundle . c1 -b /b x": "create --bundle . -b /b c1 x",
	} {
		got := strings.Join(flagsFirst(app, append([]string{"runm"}, strings.Fields(in)...))[1:], " ")
		if got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
