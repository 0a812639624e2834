//go:build linux

package sysmon

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func slackOf(t *testing.T, thread int) string {
	t.Helper()
	text, err := os.ReadFile(slackFile(thread))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestCalm(t *testing.T) {
	before := slackOf(t, os.Getpid())
	if err := Calm(); err != nil {
		t.Fatal(err)
	}
	thread, err := find()
	if err != nil {
		t.Fatal(err)
	}
	if got := slackOf(t, thread); got != strconv.FormatInt(slack.Nanoseconds(), 10) {
		t.Errorf("slack of the thread: %s", got)
	}
	if got := slackOf(t, os.Getpid()); got != before {
		t.Errorf("slack of the main thread: %s, was %s", got, before)
	}
}

// The thread is the one that sleeps by nanosleep while others work.
func TestFind(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("/proc/PID/syscall is read as amd64 has it")
	}
	thread, err := find()
	if err != nil {
		t.Fatal(err)
	}
	sleep := strconv.Itoa(unix.SYS_NANOSLEEP) + " "
	for deadline := time.Now().Add(10 * time.Second); ; {
		text, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(thread) + "/syscall")
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(text), sleep) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("thread %d never sleeps by nanosleep: %s", thread, text)
		}
	}
}
