package setup

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(*testing.M) {
	fmt.Fprintln(os.Stderr, "setup: the binary under test is missing")
	os.Exit(1)
}
