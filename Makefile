# runm's build. `make help` lists the targets; README.md says how to begin.

PREFIX  ?= /usr/local
VERSION ?= $(shell git -c safe.directory='$(CURDIR)' describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
CACHE   := $(or $(RUNM_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/runm)
ifeq ($(filter /%,$(firstword $(CACHE))),)
$(error the cache's directory $(CACHE) is no absolute path: RUNM_CACHE or XDG_CACHE_HOME names it)
endif

OUT := _output
BIN := $(OUT)/bin/runm
LIB := $(OUT)/lib/runm
KERNEL := $(LIB)/$(if $(filter aarch64,$(shell uname -m)),Image,vmlinux)

# Nothing of the build may depend on where the tree lies, whose it is (git serves
# nobody else, root included), or on a commit that changes nothing of it.
GOBUILD := go build -trimpath -buildvcs=false

.PHONY: help root all demo test critest check bench bench-docs peers install uninstall clean deps kernel runm agent generate

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: root all ## install and build what is needed, and run a Debian container (DEMO_ROOTFS=busybox for a small one)
	@hack/demo.sh

test: root all ## run all tests
	@hack/test.sh

critest: root all ## run cri-tools' conformance suite with runc and runm; a quarter of an hour
	@go test -tags critest -count=1 -v -timeout 90m -run 'TestCritest|TestSpecsRejects' ./tests/clients

check: ## format, vet, generated files, darwin types; under two minutes
	@hack/check.sh

bench: all ## measure against bare QEMU and, where installed, runc, crun, runsc (BENCH=-h: flags)
	@hack/bench.sh

bench-docs: all ## the same, and write docs/performance.md with its charts
	@hack/bench.sh -docs docs

peers: ## install runc, crun and runsc for the benchmark
	@hack/peers.sh

# Asked before anything is built; `make all` needs root for missing packages alone.
root:
	@[ "$$(id -u)" = 0 ] || { echo "make: this mounts file systems and must be run as root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

all: deps kernel agent runm ## build everything into _output

deps: ## install the packages that building and running need (Debian 12, 13)
	@hack/deps.sh
	@mkdir -p $(LIB)
	@if [ -d $(CACHE)/qemu ]; then ln -sfn $(CACHE)/qemu $(LIB)/qemu; fi

kernel: deps ## build the guest's kernel, once per machine
	@kernel=$$(hack/kernel.sh) || exit; \
	cmp -s "$$kernel" $(LIB)/$$(basename "$$kernel") || install -m 644 "$$kernel" $(LIB)/

agent: deps ## build the guest's process 1 and the initramfs
	@hack/agent.sh $(OUT)/agent
	@go run ./guest/image -agent $(OUT)/agent -o $(OUT)/initramfs.cpio
	@cmp -s $(OUT)/initramfs.cpio $(LIB)/initramfs.cpio || install -m 644 $(OUT)/initramfs.cpio $(LIB)/ # the same file, the same templates

runm: ## build the host's program
	@CGO_ENABLED=0 $(GOBUILD) -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) .

install: ## copy runm to PREFIX (after `make all`)
	@for f in $(BIN) $(KERNEL) $(LIB)/initramfs.cpio; do \
		test -e $$f || { echo "make: $$f is not built yet: run 'make all' first" >&2; exit 1; }; done
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/runm
	install -d $(DESTDIR)$(PREFIX)/lib/runm
	install -m 644 $(KERNEL) $(LIB)/initramfs.cpio $(DESTDIR)$(PREFIX)/lib/runm/
	@# The cache's owner, modes and ACLs are not for what root runs.
	@if [ -e $(LIB)/qemu ]; then \
		qemu=$(DESTDIR)$(PREFIX)/lib/runm/qemu && rm -rf $$qemu && \
		cp -R --no-dereference --preserve=timestamps $$(readlink -f $(LIB)/qemu) $$qemu && \
		chmod -R u=rwX,go=rX $$qemu && \
		echo "copied QEMU and virtiofsd to $$qemu"; fi

uninstall: ## remove what install copied
	rm -rf $(DESTDIR)$(PREFIX)/bin/runm $(DESTDIR)$(PREFIX)/lib/runm

generate: ## write the generated code of guest/api again (needs protoc)
	@hack/generate.sh

clean: ## remove what was built; the cache of kernel and packages stays
	rm -rf $(OUT)
