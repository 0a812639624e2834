package failing

import (
	"strings"
	"testing"
)

func TestFine(t *testing.T) { t.Log("not worth a word") }

func TestSkipped(t *testing.T) { t.Skip("there is no such device") }

func TestParent(t *testing.T) {
	t.Run("beside", func(t *testing.T) {
		t.Parallel()
		t.Log("of a test that passes")
	})
	t.Run("failing", func(t *testing.T) {
		t.Parallel()
		t.Log(strings.Repeat("far away\n", 100))
		t.Log(strings.Repeat("long ", 10000))
		t.Error("the cause")
	})
	t.Log("of the parent")
}

// A parent's own failure, when what is in it passed.
func TestOwn(t *testing.T) {
	t.Run("passing", func(t *testing.T) { t.Log("of a test that passes") })
	t.Error("something was left \x1b[31m\r")
}
