package config

// Assets are the files a machine is made of, as absolute paths. A path is ""
// where nothing was found.
type Assets struct {
	Kernel    string
	Initrd    string
	QEMU      string
	Virtiofsd string
	// Missing lists what was not found, and where it was looked for.
	Missing []Missing
}

// Missing is a file that was looked for in vain.
type Missing struct {
	Name   string   // the configuration's key: "kernel", "qemu", …
	Looked []string // the paths that were tried, in order
}

// FindAssets looks for the files c does not name: beside the executable exe
// (<exe>/../lib/runm), then in PATH and the distributions' places. A file that
// c names is never looked for elsewhere. virtiofsd is the only one a machine
// can do without (9p).
func (c Config) FindAssets(exe string) Assets {
	return Assets{}
}
