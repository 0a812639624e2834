//go:build linux

package monitor

import (
	"encoding/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runm/runm/libvm/plan"
	"github.com/runm/runm/libvm/proc"
	"github.com/runm/runm/libvm/template"
)

// Setup is create's first message: everything the monitor will ever know of a
// container. Of one that joins a machine, Plan.Machine, QEMU and Virtiofsd are
// not used.
type Setup struct {
	Root   string    `json:"root"`
	ID     string    `json:"id"`
	Bundle string    `json:"bundle"`
	Plan   plan.Plan `json:"plan"`
	// Spec is config.json, for the host's cgroup and the state file.
	Spec    *specs.Spec `json:"spec"`
	Systemd bool        `json:"systemd"`
	Owner   string      `json:"owner"`
	QEMU    string      `json:"qemu"`
	// Virtiofsd is "" where the share is 9p.
	Virtiofsd   string `json:"virtiofsd"`
	BootSeconds int    `json:"bootSeconds"`
	// Templates are what the machine may be cloned from, nil for none.
	Templates *template.Store `json:"templates,omitempty"`
	Flags     GuestFlags      `json:"flags"`
	Debug     bool            `json:"debug"`
	Trace     *Trace          `json:"trace,omitempty"`
}

// GuestFlags are create's flags that the guest's runtime honours.
type GuestFlags struct {
	NoPivot      bool `json:"noPivot"`
	NoNewKeyring bool `json:"noNewKeyring"`
}

// Step is what create and the monitor tell each other while a container is
// being made, over the connection that create started the monitor with. An
// Error may come at any time and is the monitor's last word.
type Step struct {
	Kind   StepKind `json:"kind"`
	Error  string   `json:"error,omitempty"`
	Holder proc.ID  `json:"holder"`
	// Booted, of StepCommitted: the machine is none that was cloned.
	Booted bool `json:"booted,omitempty"`
}

// StepKind names the steps, in their order.
type StepKind string

const (
	StepAccepted  StepKind = "accepted"  // monitor: the id is ours
	StepHolder    StepKind = "holder"    // create: the holder runs
	StepJoined    StepKind = "joined"    // monitor: it is in its cgroup
	StepReady     StepKind = "ready"     // monitor: the guest has the container
	StepLimit     StepKind = "limit"     // create: hooks are done, set limits
	StepLimited   StepKind = "limited"   // monitor
	StepCommit    StepKind = "commit"    // create: from here on it stays
	StepCommitted StepKind = "committed" // monitor
	StepFailed    StepKind = "failed"    // monitor
)

// Op is what a command asks of a monitor.
type Op string

const (
	OpStatus Op = "status"
	// OpCreated is answered when the container is no longer being created.
	OpCreated   Op = "created"
	OpStart     Op = "start"
	OpSignal    Op = "signal"
	OpExec      Op = "exec"
	OpPause     Op = "pause"
	OpResume    Op = "resume"
	OpProcesses Op = "processes"
	OpPids      Op = "pids"
	OpStats     Op = "stats"
	OpUpdate    Op = "update"
	// OpWait is answered at the container's end.
	OpWait Op = "wait"
	// OpDestroy ends the container at once, and its machine if nobody else is
	// in it; the answer comes when it is gone.
	OpDestroy Op = "destroy"
	// OpJoin asks for another container in this machine. With it come the
	// monitor's ends of the new container's connections to create and to the
	// holder, then stdin, stdout and stderr, or the slave of the terminal. The
	// Setup follows on create's connection, with the mounts of its files
	// (share.Open) in the order of Plan.Files.
	OpJoin Op = "join"
)

// Request is one question. Files carries stdin, stdout and stderr of an exec,
// or the slave of its terminal.
type Request struct {
	Op     Op     `json:"op"`
	ID     string `json:"id"`
	Signal int    `json:"signal,omitempty"`
	All    bool   `json:"all,omitempty"`
	// Process is the exec's, as config.json has one.
	Process *specs.Process `json:"process,omitempty"`
	Cgroup  string         `json:"cgroup,omitempty"`
	// Warnings are for the container's log: exec may have nowhere to say them.
	Warnings []string `json:"warnings,omitempty"`
	// IgnorePaused lets an exec into a paused container wait.
	IgnorePaused bool                  `json:"ignorePaused,omitempty"`
	Resources    *specs.LinuxResources `json:"resources,omitempty"`
	Trace        *Trace                `json:"trace,omitempty"`
}

// Reply is the answer. An exec's connection lives on: the client may send
// ExecEvents, and the last message is an Exit.
type Reply struct {
	Error string `json:"error,omitempty"`
	// Code tells apart what clients of this package tell apart.
	Code   Code                 `json:"code,omitempty"`
	Status specs.ContainerState `json:"status,omitempty"`
	// Ending: the container is about to be stopped, whatever its status.
	Ending   bool            `json:"ending,omitempty"`
	Pids     []int           `json:"pids,omitempty"`
	Stats    json.RawMessage `json:"stats,omitempty"`
	OOMKills uint64          `json:"oomKills,omitempty"`
	Table    []Process       `json:"table,omitempty"`
}

// Code says what kind of mistake an error is.
type Code string

const (
	CodeNotRunning Code = "not running"
	CodePaused     Code = "paused"
	CodeNotPaused  Code = "not paused"
	CodeGone       Code = "process gone"
	CodeEnded      Code = "container ended"
)

// Process is a row of ps, in the guest's numbers.
type Process struct {
	PID, PPID, UID uint32
	Started        int64 // seconds since 1970 UTC
	CPUMillis      uint64
	TTY, Command   string
}

// ExecEvent is what the stub of an exec passes on.
type ExecEvent struct {
	Signal int    `json:"signal,omitempty"`
	Width  uint16 `json:"width,omitempty"`
	Height uint16 `json:"height,omitempty"`
}

// ExecExit is the end of an exec.
type ExecExit struct {
	Status int `json:"status"`
}
