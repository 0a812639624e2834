package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// discards says whether discardMain works on this architecture.
const discards = true

// discardMemory makes a process give back what it has in a range of private memory,
// which then reads as zeros. Nobody can do so for another process
// (process_madvise(2) has no MADV_DONTNEED), so it is stopped as by a debugger, and
// its main thread made to call madvise(2) itself.
func discardMemory(pid int, r memoryRange) error {
	runtime.LockOSThread() // the tracer is a thread: ptrace(2)
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return os.NewSyscallError("ptrace", err)
	}
	if err := isSibling(pid); err != nil {
		return err // the kernel lets it go on when we end
	}
	call, err := syscallInstruction(pid)
	if err != nil {
		return err
	}
	if err := unix.PtraceInterrupt(pid); err != nil {
		return os.NewSyscallError("ptrace", err)
	}
	if _, err := awaitStop(pid); err != nil {
		return err
	}
	var saved unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &saved); err != nil {
		return os.NewSyscallError("ptrace", err)
	}
	regs := saved
	regs.Rip, regs.Rax = call, unix.SYS_MADVISE
	regs.Orig_rax = ^uint64(0) // no system call that would be begun again
	regs.Rdi, regs.Rsi, regs.Rdx = r.start, r.end-r.start, unix.MADV_DONTNEED
	var held []unix.Signal
	if err = unix.PtraceSetRegs(pid, &regs); err == nil {
		held, err = step(pid)
	}
	if err == nil {
		err = unix.PtraceGetRegs(pid, &regs)
	}
	err = errors.Join(err, unix.PtraceSetRegs(pid, &saved), unix.PtraceDetach(pid))
	for _, s := range held {
		err = errors.Join(err, unix.Tgkill(pid, pid, s))
	}
	if err != nil {
		return err
	}
	switch result := int64(regs.Rax); {
	case result < 0:
		return os.NewSyscallError("madvise", unix.Errno(-result))
	case result > 0: // the call's number still
		return errors.New("madvise was not called")
	}
	return nil
}

// step executes one instruction. A signal that comes first is held back, and
// returned: its handler would run with registers that are not the process's.
func step(pid int) (held []unix.Signal, err error) {
	for {
		if err := unix.PtraceSingleStep(pid); err != nil {
			return held, os.NewSyscallError("ptrace", err)
		}
		signal, err := awaitStop(pid)
		if err != nil || signal == unix.SIGTRAP {
			return held, err
		}
		held = append(held, signal)
	}
}

// awaitStop waits until the process has stopped, and says by which signal.
func awaitStop(pid int) (unix.Signal, error) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case !status.Stopped():
			return 0, errors.New("it has ended")
		default:
			return status.StopSignal(), nil
		}
	}
}

// syscallInstruction is where a process has the instruction that enters the
// kernel: in the vDSO, which has it for what it cannot answer itself (vdso(7)).
func syscallInstruction(pid int) (uint64, error) {
	maps, err := readMaps(pid)
	if err != nil {
		return 0, err
	}
	for _, m := range maps {
		if m.path != "[vdso]" {
			continue
		}
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return 0, err
		}
		defer mem.Close()
		code, err := io.ReadAll(io.NewSectionReader(mem, int64(m.start), int64(m.end-m.start)))
		if err != nil {
			return 0, err
		}
		if i := bytes.Index(code, []byte{0x0f, 0x05}); i >= 0 {
			return m.start + uint64(i), nil
		}
	}
	return 0, errors.New("no system call in the vDSO")
}
