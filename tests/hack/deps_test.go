//go:build linux

package hack

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestDeps: deps.sh looks at each package, whatever its stamp in a cache that may
// be of another machine says, and leaves alone what others have packaged.
func TestDeps(t *testing.T) {
	release := strings.Fields(output(t, `. /etc/os-release; echo "$ID $VERSION_CODENAME"`))
	if r := strings.Join(release, " "); r != "debian bookworm" && r != "debian trixie" {
		t.Skipf("%s is neither Debian 12 nor 13", r)
	}
	for _, test := range []struct {
		name, flag string
		absent     string // packages
		programs   string // in PATH
		install    string // packages that apt-get is asked for
	}{
		{"everything there", "", "", "", ""},
		{"one tool is there", "", "flex libelf-dev", "gcc", "flex libelf-dev"},
		{"without clients", "", "docker.io", "", ""},
		{"clients", "--clients", "docker.io podman catatonit", "podman", "docker.io catatonit"},
		{"Docker's own packages", "--clients", "runc containerd docker.io docker-cli", "runc containerd dockerd docker", ""},
		{"arm64", "--arm64", "gcc-aarch64-linux-gnu", "gcc", "gcc-aarch64-linux-gnu"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache, path := t.TempDir(), t.TempDir()
			stamp(t, cache, test.flag, strings.Join(release, " "))
			for _, name := range strings.Fields("awk basename bash cat dirname find flock grep head mkdir mktemp rm sed sha256sum sort tail") {
				program, err := exec.LookPath(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(program, path+"/"+name); err != nil {
					t.Fatal(err)
				}
			}
			for name, script := range map[string]string{
				"dpkg":       "echo amd64",
				"dpkg-query": `for p; do case " $ABSENT " in *" $p "*) ;; *) echo "installed $p" ;; esac; done`,
				"apt-cache":  "true",
				"apt-get":    `echo "$*" >>"$CALLS"; false`,
				"id":         "echo 0",
				"tee":        "cat >/dev/null", // of policy-rc.d
				"chmod":      "true",
			} {
				write(t, path+"/"+name, "#!/bin/sh\n"+script+"\n")
			}
			for _, name := range strings.Fields(test.programs) {
				write(t, path+"/"+name, "#!/bin/sh\n")
			}
			calls := cache + "/calls"
			cmd := exec.Command("../../hack/deps.sh", strings.Fields(test.flag)...)
			cmd.Env = []string{"PATH=" + path, "RUNM_CACHE=" + cache, "CALLS=" + calls, "ABSENT=" + test.absent}
			out, err := cmd.CombinedOutput()
			asked, _ := os.ReadFile(calls)
			first, _, _ := strings.Cut(string(asked), "\n")
			want := ""
			if test.install != "" {
				want = "install -y --no-install-recommends " + test.install
			}
			if first != want || (err == nil) != (want == "") {
				t.Errorf("apt-get was asked for %q, want %q; %v\n%s", first, want, err, out)
			}
		})
	}
}

// stamp makes a cache that deps.sh has filled, of a machine with all packages.
func stamp(t *testing.T, cache, flag, release string) {
	t.Helper()
	h := sha256.New()
	for _, script := range []string{"deps.sh", "lib.sh"} {
		data, err := os.ReadFile("../../hack/" + script)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(data)
	}
	write(t, cache+"/.deps"+strings.TrimPrefix(flag, "-")+".stamp", fmt.Sprintf("%x  - %s\n", h.Sum(nil), release))
	write(t, cache+"/src/linux-source-6.12.tar.xz", "source")
	write(t, cache+"/arm64/bin/busybox", "")
	write(t, cache+"/qemu/bin/qemu-system-x86_64", "")
	write(t, cache+"/qemu-arm64/bin/qemu-system-aarch64", "")
}

// output is what lines of bash print, without the last newline.
func output(t *testing.T, lines string) string {
	t.Helper()
	out, err := bash(t, ".", lines)
	if err != nil {
		t.Fatal(err, out)
	}
	return strings.TrimSuffix(out, "\n")
}
