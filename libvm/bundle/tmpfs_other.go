//go:build !linux

package bundle

// tmpfsBytes: only Linux has a tmpfs.
func tmpfsBytes(string) uint64 { return 0 }

// hasSubmounts: only Linux carries them along.
func hasSubmounts(string) bool { return false }
