# Brig's build. Fresh Debian 12 with git, make and Go, as root: `make demo`, `make test`.

SHELL      := /bin/bash
PREFIX     ?= /usr/local
DESTDIR    ?=
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO         ?= go
GOFLAGS_   := -trimpath -ldflags "-s -w -X brig/internal/front/cli.Version=$(VERSION) -X brig/internal/front/oci.Version=$(VERSION)"
PROGRAMS   := brig brig-oci brig-image brigd brig-vm brig-guest
BASE       := internal/image/base/data/base.tar.gz
FUZZTIME   ?= 20s
BENCHFLAGS ?=

export CGO_ENABLED = 0

# The collector that came with Go 1.26 touches one more page for each size of object: 2 to 5 % of a program that lives for milliseconds. Go 1.27 has no choice.
ifeq ($(origin GOEXPERIMENT),undefined)
ifneq ($(findstring go1.26,$(shell $(GO) env GOVERSION)),)
export GOEXPERIMENT = nogreenteagc
endif
endif

# Debian packages: what the build packs into the base image, and what the tests stand beside.
BUILD_PACKAGES := busybox-static
TEST_PACKAGES  := nftables iproute2 runc skopeo umoci mmdebstrap docker-registry openssh-client uidmap passt slirp4netns bzip2 xz-utils zstd e2fsprogs
BENCH_PACKAGES := crun podman containerd docker.io bubblewrap iptables e2fsprogs
FOREIGN_PACKAGES := conmon gcc libc6-dev buildah
FAR_PACKAGES   := curl redis-tools openssh-server
GUEST_PACKAGES := qemu-system-x86 mmdebstrap e2fsprogs
KERNEL_PACKAGES := linux-source-6.1 gcc libc6-dev flex bison bc libelf-dev patch xz-utils
VM_PACKAGES    := qemu-system-x86 qemu-system-common

# The kernel of virtual machines (--isolation vm), built once for each configuration.
KERNEL_CONFIG := cmd/brig-guest/kernel.config
KERNEL_PATCH := cmd/brig-guest/kernel.patch
KERNEL_DEB := .cache/kernel.deb
KERNEL     := .cache/kernel/$(shell cat $(KERNEL_CONFIG) $(KERNEL_PATCH) | sha256sum | cut -c1-12)/vmlinux

# gVisor's module, without what makes it large.
GVISOR     := .cache/gvisor
SENTRY     := -trimpath -modfile=$(CURDIR)/$(GVISOR).mod

# What looks different to another kernel, with cgroup v2 alone: make test-guest runs it there.
GUEST_TESTS    ?= ./internal/runtime/... ./internal/kernel/... ./internal/front/oci ./test/escape ./test/debian

.DEFAULT_GOAL := help
# The stories, there: so many clones of the guest share them out, two at a time.
STORY_PARTS    ?= 12

.PHONY: help setup setup-build setup-bench setup-debian setup-conform setup-guest setup-vm guest-kernel build install uninstall commands demo test check lint bench levels fuzz test-debian test-fault test-powercut test-escape test-levels test-trust conform conform-registry guest guest-shell test-guest test-guest-stories clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# $(call packages,NAMES) installs the Debian packages that are missing. Nothing is asked of the network when none is.
define packages
@missing=(); for p in $(1); do \
	[ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing+=($$p); done; \
if [ $${#missing[@]} -gt 0 ]; then \
	echo "installing $${missing[*]}"; export DEBIAN_FRONTEND=noninteractive; \
	log=$$(mktemp); { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}"; } >$$log 2>&1 \
	|| { cat $$log; rm -f $$log; exit 1; }; rm -f $$log; fi
endef

setup: setup-build $(KERNEL_DEB) ## what build and test need: Debian packages, Go modules
	$(call packages,$(TEST_PACKAGES) $(VM_PACKAGES))

setup-build:
	$(call packages,$(BUILD_PACKAGES))
	@$(GO) mod download
	@$(GO) mod download -C cmd/brig-sentry

setup-bench: setup
	$(call packages,$(BENCH_PACKAGES))

setup-debian: setup
	$(call packages,$(FAR_PACKAGES))

setup-guest: setup-build
	$(call packages,$(GUEST_PACKAGES))

setup-vm: setup-build
	$(call packages,$(VM_PACKAGES))

setup-conform: setup-bench
	$(call packages,$(FOREIGN_PACKAGES))

build: setup-build $(BASE) $(GVISOR).mod ## the programs, in bin/
	@mkdir -p bin
	$(GO) build $(GOFLAGS_) -o bin/ $(PROGRAMS:%=./cmd/%)
	$(GO) build -C cmd/brig-sentry $(SENTRY) -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$$(awk '$$1=="gvisor.dev/gvisor"{print $$2}' cmd/brig-sentry/go.mod)" -o $(CURDIR)/bin/ .
	@[ ! -e $(KERNEL) ] || cmp -s $(KERNEL) bin/vm-kernel || install -m 644 $(KERNEL) bin/vm-kernel
	@[ -e $(KERNEL) -o ! -e bin/vm-kernel ] || echo "bin/vm-kernel is of another configuration: make guest-kernel builds the one of this"

guest-kernel: setup-vm $(KERNEL) ## the kernel of virtual machines, from Debian's source, in bin/vm-kernel (the first time: ten minutes)
	@install -D -m 644 $(KERNEL) bin/vm-kernel

# Debian's own, which is not installed: tests give it to virtual machines.
$(KERNEL_DEB): | setup-build
	@set -e; rm -rf $@.new; mkdir -p $@.new; cd $@.new; fetch() { \
		name=$$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/{print $$2; exit}') && echo "fetching $$name" && \
		apt-get -qq -o APT::Sandbox::User=root download "$$name"; }; \
	fetch 2>/dev/null || { apt-get update -qq; fetch; }
	@mv $@.new/*.deb $@ && rm -r $@.new

# Everything is built in, and nothing in it says who built it or when.
$(KERNEL):
	$(call packages,$(KERNEL_PACKAGES))
	@rm -rf .cache/kernel/linux-source-6.1 && mkdir -p .cache/kernel && tar -C .cache/kernel -xf /usr/src/linux-source-6.1.tar.xz
	@set -e; log=$$(realpath .cache/kernel)/log; config=$$(realpath $(KERNEL_CONFIG)); patch=$$(realpath $(KERNEL_PATCH)); cd .cache/kernel/linux-source-6.1; \
	export KBUILD_BUILD_USER=brig KBUILD_BUILD_HOST=brig KBUILD_BUILD_TIMESTAMP='Thu Jan 1 00:00:00 UTC 1970'; \
	echo "building Linux, the log is $$log"; \
	{ patch -p1 <"$$patch" && $(MAKE) ARCH=x86 KCONFIG_ALLCONFIG="$$config" allnoconfig && nice -n 5 $(MAKE) ARCH=x86 -j$$(nproc) vmlinux; } >"$$log" 2>&1 || { tail "$$log"; exit 1; }
	@mkdir -p $(@D) && strip -o $@.new .cache/kernel/linux-source-6.1/vmlinux && mv $@.new $@ && rm -rf .cache/kernel/linux-source-6.1

# gVisor's module has a program for another house's storage in it, 46 MB, for which Brig has no use: brig-sentry is built from a copy without. A plain "go build" builds the larger one, which also lacks the version that checkpoints are told apart by.
$(GVISOR).mod: cmd/brig-sentry/go.mod cmd/brig-sentry/go.sum
	@$(GO) mod download -C cmd/brig-sentry gvisor.dev/gvisor
	@rm -rf $(GVISOR) && mkdir -p $(@D) && cp -r "$$($(GO) list -C cmd/brig-sentry -m -f '{{.Dir}}' gvisor.dev/gvisor)" $(GVISOR) && chmod -R u+w $(GVISOR)
	@: >$(GVISOR)/runsc/checkpointgofer/checkpointgofer.bin
	@cp cmd/brig-sentry/go.sum $(GVISOR).sum
	@{ cat cmd/brig-sentry/go.mod; echo 'replace gvisor.dev/gvisor => ../../$(GVISOR)'; } >$@.new && mv $@.new $@

$(BASE): $(wildcard internal/image/base/gen/*.go internal/image/base/*.go)
	$(GO) run ./internal/image/base/gen
	@touch $@

install: build ## programs, completions, man pages and the unit brig-boot below DESTDIR/PREFIX
	@set -e; gen=$$(mktemp -d); trap 'rm -rf "$$gen"' EXIT; $(GO) run ./internal/front/cli/gen "$$gen"; \
	install -D -m 755 bin/brig "$(DESTDIR)$(PREFIX)/bin/brig"; \
	install -D -m 755 bin/brig-oci "$(DESTDIR)$(PREFIX)/bin/brig-oci"; \
	install -D -m 755 bin/brig-image "$(DESTDIR)$(PREFIX)/libexec/brig/brig-image"; \
	install -D -m 755 bin/brigd "$(DESTDIR)$(PREFIX)/libexec/brig/brigd"; \
	install -D -m 755 bin/brig-sentry "$(DESTDIR)$(PREFIX)/libexec/brig/brig-sentry"; \
	install -D -m 755 bin/brig-vm "$(DESTDIR)$(PREFIX)/libexec/brig/brig-vm"; \
	install -D -m 755 bin/brig-guest "$(DESTDIR)$(PREFIX)/libexec/brig/brig-guest"; \
	[ ! -e bin/vm-kernel ] || install -D -m 644 bin/vm-kernel "$(DESTDIR)$(PREFIX)/libexec/brig/vm-kernel"; \
	install -D -m 644 "$$gen/completion/brig" "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/brig"; \
	install -D -m 644 "$$gen/completion/_brig" "$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_brig"; \
	install -D -m 644 "$$gen/completion/brig.fish" "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/brig.fish"; \
	sed "s|@BINDIR@|$(PREFIX)/bin|" scripts/brig-boot.service >"$$gen/brig-boot.service"; \
	install -D -m 644 "$$gen/brig-boot.service" "$(DESTDIR)$(PREFIX)/lib/systemd/system/brig-boot.service"; \
	for page in "$$gen"/man1/*.1; do install -D -m 644 "$$page" "$(DESTDIR)$(PREFIX)/share/man/man1/$${page##*/}"; done

uninstall: ## takes away what install put there; images and containers stay
	rm -f "$(DESTDIR)$(PREFIX)/bin/brig" "$(DESTDIR)$(PREFIX)/bin/brig-oci" "$(DESTDIR)$(PREFIX)/lib/systemd/system/brig-boot.service" "$(DESTDIR)$(PREFIX)"/share/man/man1/brig.1 \
	  "$(DESTDIR)$(PREFIX)"/share/man/man1/brig-*.1 "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/brig" \
	  "$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_brig" "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/brig.fish"
	rm -rf "$(DESTDIR)$(PREFIX)/libexec/brig"

commands: ## doc/commands.md and the tables of doc/isolation.md; ASK=1 asks the docker and podman that are installed for their verbs and flags again
	$(if $(ASK),$(GO) run ./internal/front/cli/gen -ask)
	$(GO) run ./internal/front/cli/gen -commands
	$(GO) run ./internal/engine/gen

demo: build ## containers run, fetched from, looked into and gone again, in a minute
	@scripts/demo bin

test: setup build check ## formatting, vet, every test and story
	$(GO) test -timeout 10m $$($(GO) list ./... | grep -v '^brig/test/')
	$(GO) test -C cmd/brig-sentry $(SENTRY) ./...
	$(GO) test -p 1 -timeout 30m ./test/... # one at a time: they look at what is left on the whole machine

check: $(GVISOR).mod
	@bad=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); [ -z "$$bad" ] || { echo "gofmt would change:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -C cmd/brig-sentry $(SENTRY) ./...

lint: ## golangci-lint with .golangci.yml (the first time builds it: four minutes)
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...

bench: setup-bench build ## side by side with the container engines of Debian; BENCHFLAGS="-rounds 10 -case exec"
	$(GO) run ./test/bench $(BENCHFLAGS)

levels: setup-bench build ## doc/levels.md and its chart: what each level of isolation costs, measured here
	$(GO) run ./test/bench -engine brig -case 'levels of isolation' -page doc $(BENCHFLAGS)

# What fuzzing puts into the functions of a forked child, none of which it runs, is too much for the linker's proof that their stack suffices. With -race the linker,
# and it alone, allows twice as much; it says that it finds no runtime/race, which nothing asks for.
fuzz: ## every fuzz target for FUZZTIME
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' internal api | xargs -r -n1 dirname | sort -u | while read -r dir; do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do \
	    echo "$$dir $$f"; $(GO) test -ldflags=-race -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s ./$$dir; done; done

test-debian: setup-debian build ## a whole Debian: apt-get, nginx, redis under load, systemd; needs a package mirror
	BRIG_TEST_DEBIAN=1 $(GO) test -count=1 -v -timeout 20m ./test/debian

test-fault: setup build ## kills, crowds and full disks, five times as many as in make test
	BRIG_FAULT_SCALE=5 $(GO) test -count=1 -v -timeout 60m ./test/fault
	BRIG_FAULT_SCALE=5 $(GO) test -count=1 -v -timeout 40m -run "Killed|Crowd" ./test/runtime

test-powercut: setup build ## cuts the power after, and fails, every single write of pull, load, rmi, run and others: some 20 minutes
	BRIG_POWERCUT=whole $(GO) test -count=1 -v -timeout 60m ./test/fault/powercut

guest: setup-guest ## a Debian with cgroup v2, systemd and CRIU under QEMU, saved as it runs (the first time: two minutes)
	@$(GO) run ./test/guest/cmd/guest build -measure

guest-shell: setup-guest ## a shell in it; what it changes is gone afterwards
	@$(GO) run ./test/guest/cmd/guest build
	@$(GO) run ./test/guest/cmd/guest sh

test-guest: build setup-guest ## the tests of GUEST_TESTS, run in it
	@$(GO) run ./test/guest/cmd/guest build
	$(GO) run ./test/guest/cmd/guest test $(GUEST_TESTS)

test-guest-stories: build setup-guest ## the stories of the command line in it, root's and a normal user's, among STORY_PARTS clones
	@$(GO) run ./test/guest/cmd/guest build
	$(GO) run ./test/guest/cmd/guest test -run 'TestStories|TestRootlessStories' -parts $(STORY_PARTS) -timeout 60m ./test/script

test-escape: setup build ## known escapes, races of a minute each and loops of a thousand
	BRIG_ESCAPE_SECONDS=60 $(GO) test -count=1 -v -timeout 60m ./test/escape

test-levels: setup guest-kernel build ## stories, attacks, kills and real programs (apt-get, nginx, redis, PostgreSQL, Go) at levels chroot, gvisor and vm, for which it builds a kernel
	BRIG_TEST_LEVELS=1 $(GO) test -count=1 -v -timeout 90m -run 'ChrootStories|GVisorStories|VMStories' ./test/script
	BRIG_TEST_LEVELS=1 $(GO) test -count=1 -v -timeout 60m -run 'AtLevels' ./test/escape
	BRIG_FAULT_SCALE=5 $(GO) test -count=1 -v -timeout 60m -run 'Levels|SelftestKilled' ./test/fault
	BRIG_TEST_LEVELS=1 $(GO) test -count=1 -v -timeout 120m ./test/software

test-trust: setup ## the signature policy with the real cosign, which the first time takes ten minutes to build
	BRIG_TEST_COSIGN=1 $(GO) test -count=1 -v -timeout 40m ./internal/image/trust ./internal/engine/transfer -run 'Sign|Cosign|Policy'

conform: setup-conform build ## brig-oci as a drop-in: runtime-tools beside runc and crun, under dockerd, containerd and podman, runc's command line; images of umoci, podman, buildah, docker and skopeo
	BRIG_TEST_CONFORM=1 $(GO) test -count=1 -v -timeout 60m ./test/conform ./test/images

conform-registry: setup-conform build ## brig registry serve: the distribution specification's suite, docker, podman, skopeo, crane, kills
	BRIG_TEST_CONFORM=1 $(GO) test -count=1 -v -timeout 30m ./test/conform/registry

clean: ## takes away what build made
	rm -rf bin .cache $(BASE)
