package qemu

import (
	"strings"
	"testing"
)

// TestSaved: only a migration that QEMU calls complete is one.
func TestSaved(t *testing.T) {
	for answer, want := range map[string]string{
		`{"return": {"status": "completed"}}`:                           "",
		`{"return": {"status": "failed", "error-desc": "no such CPU"}}`: "migration failed: no such CPU",
		`{"return": {"status": "cancelled"}}`:                           "migration cancelled",
		`{"return": {}}`:                                                "migration",
		`{"error": {"class": "GenericError", "desc": "no"}}`:            "GenericError: no",
	} {
		m := &machine{qmp: serveQMP(t, greeting, `{"return": {}}`, answer)}
		err := m.saved(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", answer, err, want)
		}
	}
}
