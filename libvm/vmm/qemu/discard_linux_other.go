//go:build linux && !amd64

package qemu

import "errors"

// discards says whether discardMemory works on this architecture.
const discards = false

func discardMemory(int, memoryRange) error { return errors.ErrUnsupported }
