//go:build linux

package clients

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

const busybox = "/bin/busybox" // Debian's busybox-static

// imageName is what the image is called in every client, and pauseName one with
// the same files whose program only waits, for what holds a pod.
const (
	imageName = "localhost/busy:latest"
	pauseName = "localhost/pause:latest"
)

// writeImages writes a docker archive, which every client can load, to path:
// busybox with its applets, a user "app" (1000) and nothing else. No registry
// and no tool is needed for it.
func writeImages(path string) error {
	layer, err := imageLayer()
	if err != nil {
		return err
	}
	type file struct {
		name string
		data []byte
	}
	files := []file{{"layer.tar", layer}}
	var manifest []map[string]any
	for _, image := range []struct {
		name string
		cmd  []string
	}{{imageName, []string{"sh"}}, {pauseName, []string{"sleep", "1000000"}}} {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH,
			"os":           "linux",
			"created":      "2024-01-01T00:00:00Z",
			"config":       map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": image.cmd},
			"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
			"history":      []map[string]any{{"created": "2024-01-01T00:00:00Z", "created_by": "tests/clients"}},
		})
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(digest(config), "sha256:") + ".json"
		files = append(files, file{name, config})
		manifest = append(manifest, map[string]any{
			"Config": name, "RepoTags": []string{image.name}, "Layers": []string{"layer.tar"},
		})
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range append(files, file{"manifest.json", data}) {
		if err := tarFile(w, f.name, 0o644, f.data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func imageLayer() ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("busybox-static: %w", err)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "var"} {
		if err := w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, text string }{
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home:/bin/sh\n"},
		{"etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n"},
	} {
		if err := tarFile(w, f.name, 0o644, []byte(f.text)); err != nil {
			return nil, err
		}
	}
	if err := tarFile(w, "bin/busybox", 0o755, program); err != nil {
		return nil, err
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet == "busybox" {
			continue
		}
		err := w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777})
		if err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func tarFile(w *tar.Writer, name string, mode int64, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
