//go:build linux

package main

import "testing"

func TestSystemdService(t *testing.T) {
	for name, c := range map[string]struct {
		env             map[string]string
		refused, warned bool
	}{
		"not a service":           {},
		"sockets":                 {env: map[string]string{"LISTEN_FDS": "1", "LISTEN_PID": "7"}, refused: true},
		"no sockets":              {env: map[string]string{"LISTEN_FDS": "0", "LISTEN_PID": "7"}},
		"sockets of our parent":   {env: map[string]string{"LISTEN_FDS": "1", "LISTEN_PID": "6"}},
		"a service that notifies": {env: map[string]string{"NOTIFY_SOCKET": "/run/systemd/notify"}, warned: true},
	} {
		warnings, err := systemdService(func(name string) string { return c.env[name] }, 7)
		if (err != nil) != c.refused || (len(warnings) > 0) != c.warned {
			t.Errorf("%s: %q, %v", name, warnings, err)
		}
	}
}
