//go:build linux && critest

package clients

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// standIn is an image under the names that critest asks for: busybox, with
// what the specs look for in the real one.
type standIn struct {
	names []string // without the registry: repository:tag
	user  string
	cmd   []string
	files []standInFile
}

type standInFile struct {
	name string
	mode int64
	text string
}

// server is a web server that the specs know as nginx: by /var/run/nginx.pid,
// by its process's name, and by "master process" in its command line.
func server(port string) []standInFile {
	return []standInFile{
		{"bin/nginx", 0o755, "#!/bin/sh\ntrap 'kill $!; exit' TERM QUIT INT\necho httpd\nhttpd -f -p " + port + " -h /www &\n" +
			"mkdir -p /var/run\necho $$ >/var/run/nginx.pid\nwait\n"},
		{"www/index.html", 0o644, "hello\n"},
	}
}

func standIns() []standIn {
	const staging = "k8s-staging-cri-tools/"
	images := []standIn{
		{names: []string{"pause:3.9"}, cmd: []string{"tail", "-f", "/dev/null"}},
		{names: []string{"e2e-test-images/busybox:1.29-2"}},
		{names: []string{"e2e-test-images/nginx:1.14-2"}, cmd: []string{"/bin/nginx", "master process"}, files: server("80")},
		{names: []string{"e2e-test-images/httpd:2.4.39-4"}, cmd: []string{"/bin/nginx"}, files: server("80")},
		{names: []string{staging + "hostnet-nginx-" + runtime.GOARCH + ":latest"}, cmd: []string{"/bin/nginx"}, files: server("12003")},
		{names: []string{staging + "test-image-user-uid:latest"}, user: "1002"},
		{names: []string{staging + "test-image-user-username:latest"}, user: "www-data"},
		{names: []string{staging + "test-image-user-uid-group:latest"}, user: "1003:users"},
		{names: []string{staging + "test-image-user-username-group:latest"}, user: "www-data:100"},
		{names: []string{staging + "test-image-predefined-group:latest"}, user: "1000", files: []standInFile{
			{"etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home:/bin/sh\n"},
			{"etc/group", 0o644, "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"},
		}},
		{names: []string{staging + "test-image-latest:latest"}},
		{names: []string{staging + "test-image-tag:test"}},
		{names: []string{staging + "test-image-tag:all"}},
		{names: []string{staging + "test-image-tags:1", staging + "test-image-tags:2", staging + "test-image-tags:3"}},
	}
	for _, n := range []string{"1", "2", "3"} {
		images = append(images, standIn{names: []string{staging + "test-image-" + n + ":latest"}})
	}
	return images
}

// common are the files of every image, over imageLayer's: what the specs call
// and Debian's busybox does not have, and the users that Docker's busybox has.
var common = []standInFile{
	{"bin/pgrep", 0o755, "#!/bin/sh\npidof \"$1\"\n"},
	{"bin/ls", 0o755, "#!/bin/sh\nexec busybox ls \"$@\"\n"}, // a file of its own, to be masked
	{"bin/ipcs", 0o755, "#!/bin/sh\ncat /proc/sysvipc/shm\n"},
	{"etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"},
	{"etc/group", 0o644, "root:x:0:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"},
}

// registry is an image registry as far as pulling goes: a document by its path.
type registry map[string]document

type document struct {
	mediaType string
	data      []byte
}

func newRegistry() (registry, error) {
	r := registry{}
	base, err := imageLayer()
	if err != nil {
		return nil, err
	}
	for _, image := range standIns() {
		top, err := fileLayer(append(append([]standInFile{}, common...), image.files...))
		if err != nil {
			return nil, err
		}
		if err := r.add(image, base, top); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r registry) add(image standIn, layers ...[]byte) error {
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	const oci = "application/vnd.oci.image."
	put := func(mediaType string, data []byte) descriptor {
		for _, name := range image.names {
			repository, _, _ := strings.Cut(name, ":")
			r["/v2/"+repository+"/blobs/"+digest(data)] = document{mediaType, data}
		}
		return descriptor{mediaType, digest(data), len(data)}
	}
	var descriptors []descriptor
	var diffIDs []string
	for _, layer := range layers {
		descriptors = append(descriptors, put(oci+"layer.v1.tar", layer))
		diffIDs = append(diffIDs, digest(layer))
	}
	if image.cmd == nil {
		image.cmd = []string{"sh"}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Env": []string{"PATH=/bin"}, "Cmd": image.cmd, "User": image.user,
			"Labels": map[string]string{"name": image.names[0]},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     oci + "manifest.v1+json",
		"config":        put(oci+"config.v1+json", config),
		"layers":        descriptors,
	})
	if err != nil {
		return err
	}
	for _, name := range image.names {
		repository, tag, _ := strings.Cut(name, ":")
		for _, reference := range []string{tag, digest(manifest)} {
			r["/v2/"+repository+"/manifests/"+reference] = document{oci + "manifest.v1+json", manifest}
		}
	}
	return nil
}

func fileLayer(files []standInFile) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	written := map[string]bool{}
	for i := len(files) - 1; i >= 0; i-- { // of two with a name, the last
		f := files[i]
		if written[f.name] {
			continue
		}
		written[f.name] = true
		if err := tarFile(w, f.name, f.mode, []byte(f.text)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (r registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	d, ok := r[q.URL.Path]
	if !ok {
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Content-Type", d.mediaType)
	w.Header().Set("Docker-Content-Digest", digest(d.data))
	w.Header().Set("Content-Length", fmt.Sprint(len(d.data)))
	if q.Method != http.MethodHead {
		_, _ = w.Write(d.data) // the client sees a body that is too short
	}
}

// listenIn listens in another process's network namespace.
func listenIn(pid int, address string) (net.Listener, error) {
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		l, err := func() (net.Listener, error) {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			return net.Listen("tcp", address)
		}()
		done <- result{l, err}
	}()
	r := <-done
	return r.l, r.err
}
