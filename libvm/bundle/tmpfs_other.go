//go:build !linux

package bundle

// tmpfsBytes: only Linux has a tmpfs.
func tmpfsBytes(string) uint64 { return 0 }
