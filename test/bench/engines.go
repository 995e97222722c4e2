package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/test/machine"
)

// engine is one competitor. A nil function means that it has no such thing.
type engine struct {
	name, version string

	// run is the command line that runs args in a fresh container of imageName and removes it; network is none or bridge.
	run func(network, name string, args ...string) []string
	// cli is a command line of an engine whose verbs are docker's.
	cli func(args ...string) []string
	// start is the same for a detached one, exec runs in it, remove ends it.
	start  func(name string, args ...string) []string
	exec   func(name string, args ...string) []string
	remove func(name string) []string
	// pull brings ref in, forget takes it away again with its layers.
	pull, forget func(ref string) []string
	// runRef is run, without network, for another image than imageName.
	runRef func(ref, name string, args ...string) []string
	// stores are the folders where images lie, daemons the programs that pull.
	stores, daemons []string
	// bundle runs the OCI bundle in dir to its end.
	bundle func(dir, name string) []string
	// runc is how a drop-in for runc is called: a program and its global flags.
	runc []string

	down []func()
}

func (e *engine) close() {
	for i := len(e.down) - 1; i >= 0; i-- {
		e.down[i]()
	}
	e.down = nil
}

// open starts what is installed. An engine that cannot be started is reported and left out.
func (b *bench) open(want func(string) bool) {
	for _, o := range []struct {
		name string
		open func(*engine) error
	}{
		{"brig", b.openBrig}, {"podman", b.openPodman}, {"docker", b.openDocker}, {"ctr", b.openContainerd},
		{"brig-oci", b.openBrigOCI}, {"crun", b.openCrun}, {"runc", b.openRunc}, {"bwrap", b.openBwrap},
	} {
		if !want(o.name) {
			continue
		}
		e := &engine{name: o.name}
		if err := o.open(e); err != nil {
			fmt.Fprintf(os.Stderr, "bench: without %s: %v\n", o.name, err)
			e.close()
			continue
		}
		b.engines = append(b.engines, e)
	}
}

// do runs a command to its end and gives back its output in an error.
func (b *bench) do(argv ...string) error {
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// firstLine is the first line that a command prints, for versions.
func firstLine(argv ...string) (string, error) {
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", argv[0], err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}

func (b *bench) openBrig(e *engine) (err error) {
	brig := []string{filepath.Join(b.bin, "brig"), "--root", filepath.Join(b.dir, "brig-root"), "--state", filepath.Join(b.dir, "brig-state")}
	with := func(args ...string) []string { return append(brig[:len(brig):len(brig)], args...) }
	if e.version, err = firstLine(brig[0], "--version"); err != nil {
		return fmt.Errorf("%w: make build", err)
	}
	e.down = append(e.down, func() { _ = b.do(with("system", "reset", "--force")...) })
	e.cli = with
	e.run = func(network, name string, args ...string) []string {
		return with(append([]string{"run", "--rm", "--name", name, "--network", network, imageName}, args...)...)
	}
	e.start = func(name string, args ...string) []string {
		return with(append([]string{"run", "-d", "--name", name, "--network", "none", imageName}, args...)...)
	}
	e.exec = func(name string, args ...string) []string { return with(append([]string{"exec", name}, args...)...) }
	e.remove = func(name string) []string { return with("rm", "-f", name) }
	e.pull = func(ref string) []string { return with("pull", "-q", ref) }
	e.forget = func(ref string) []string { return with("rmi", ref) }
	e.runRef = func(ref, name string, args ...string) []string {
		return with(append([]string{"run", "--rm", "--name", name, "--network", "none", ref}, args...)...)
	}
	e.stores = []string{filepath.Join(b.dir, "brig-root")}
	return b.do(with("load", "-i", b.archive)...)
}

func (b *bench) openPodman(e *engine) (err error) {
	podman := machine.Podman(b.dir)
	with := func(args ...string) []string { return append(podman[:len(podman):len(podman)], args...) }
	if e.version, err = firstLine("podman", "--version"); err != nil {
		return err
	}
	if why, err := machine.Hugetlb(); err != nil {
		return err
	} else if why != "" {
		fmt.Fprintln(os.Stderr, "bench:", why)
	}
	run := func(how []string, network, name string, args []string) []string {
		argv := append(with("run"), how...)
		argv = append(append(argv, machine.PodmanLimits()...), "--name", name, "--network", network, imageName)
		return append(argv, args...)
	}
	e.down = append(e.down, func() { _ = b.do(with("rm", "-a", "-f", "-t", "0")...) })
	e.cli = with
	e.run = func(network, name string, args ...string) []string { return run([]string{"--rm"}, network, name, args) }
	e.start = func(name string, args ...string) []string { return run([]string{"-d"}, "none", name, args) }
	e.exec = func(name string, args ...string) []string { return with(append([]string{"exec", name}, args...)...) }
	e.remove = func(name string) []string { return with("rm", "-f", "-t", "0", name) }
	e.pull = func(ref string) []string { return with("pull", "-q", "--tls-verify=false", ref) }
	e.forget = func(ref string) []string { return with("rmi", "-f", ref) }
	e.runRef = func(ref, name string, args ...string) []string {
		argv := append(append(with("run", "--rm"), machine.PodmanLimits()...), "--name", name, "--network", "none", ref)
		return append(argv, args...)
	}
	e.stores = []string{filepath.Join(b.dir, "podman")}
	return b.do(with("load", "-i", b.archive)...)
}

// containerd starts a containerd of the bench's own, once, and returns its socket.
func (b *bench) containerd(e *engine) (string, error) {
	if socket := filepath.Join(b.dir, "containerd.sock"); machine.Dial(socket) {
		return socket, nil
	}
	socket, stop, err := machine.StartContainerd(b.dir)
	e.down = append(e.down, stop)
	return socket, err
}

func (b *bench) openDocker(e *engine) error {
	if _, err := exec.LookPath("dockerd"); err != nil {
		return err
	}
	ctd, err := b.containerd(e)
	if err != nil {
		return err
	}
	socket, stop, err := machine.StartDockerd(b.dir, ctd)
	e.down = append(e.down, stop)
	if err != nil {
		return err
	}
	docker := []string{"docker", "-H", "unix://" + socket}
	with := func(args ...string) []string { return append(docker[:len(docker):len(docker)], args...) }
	if e.version, err = firstLine(with("version", "--format", "client {{.Client.Version}}, dockerd {{.Server.Version}}")...); err != nil {
		return err
	}
	e.cli = with
	e.run = func(network, name string, args ...string) []string {
		return with(append([]string{"run", "--rm", "--name", name, "--network", network, imageName}, args...)...)
	}
	e.start = func(name string, args ...string) []string {
		return with(append([]string{"run", "-d", "--name", name, "--network", "none", imageName}, args...)...)
	}
	e.exec = func(name string, args ...string) []string { return with(append([]string{"exec", name}, args...)...) }
	e.remove = func(name string) []string { return with("rm", "-f", name) }
	e.pull = func(ref string) []string { return with("pull", "-q", ref) }
	e.forget = func(ref string) []string { return with("rmi", "-f", ref) }
	e.runRef = func(ref, name string, args ...string) []string {
		return with(append([]string{"run", "--rm", "--name", name, "--network", "none", ref}, args...)...)
	}
	e.stores, e.daemons = []string{filepath.Join(b.dir, "docker")}, []string{"dockerd", "containerd"}
	return b.do(with("load", "-i", b.archive)...)
}

func (b *bench) openContainerd(e *engine) error {
	if _, err := exec.LookPath("ctr"); err != nil {
		return err
	}
	socket, err := b.containerd(e)
	if err != nil {
		return err
	}
	ctr := []string{"ctr", "-a", socket, "-n", "bench"}
	with := func(args ...string) []string { return append(ctr[:len(ctr):len(ctr)], args...) }
	if e.version, err = firstLine("containerd", "--version"); err != nil {
		return err
	}
	e.run = func(network, name string, args ...string) []string {
		if network != "none" {
			return nil // ctr makes no bridge
		}
		return with(append([]string{"run", "--rm", imageName, name}, args...)...)
	}
	e.start = func(name string, args ...string) []string {
		return with(append([]string{"run", "-d", imageName, name}, args...)...)
	}
	serial := 0
	e.exec = func(name string, args ...string) []string {
		serial++
		return with(append([]string{"task", "exec", "--exec-id", fmt.Sprint("e", serial), name}, args...)...)
	}
	e.remove = func(name string) []string {
		c := strings.Join(ctr, " ")
		return []string{"sh", "-c", c + " task kill -s KILL " + name + "; " + c + " task delete -f " + name + "; " + c + " container delete " + name}
	}
	e.pull = func(ref string) []string { return with("images", "pull", "--plain-http", ref) }
	e.forget = func(ref string) []string { return with("images", "rm", "--sync", ref) }
	e.runRef = func(ref, name string, args ...string) []string {
		return with(append([]string{"run", "--rm", ref, name}, args...)...)
	}
	e.stores, e.daemons = []string{filepath.Join(b.dir, "containerd")}, []string{"containerd"}
	return b.do(with("images", "import", b.archive)...)
}

// drop makes e a drop-in for runc, called with these arguments first.
func (e *engine) drop(argv ...string) {
	e.runc = argv
	e.bundle = func(dir, name string) []string { return e.oci("run", "--bundle", dir, name) }
}

// oci is a command of a drop-in for runc.
func (e *engine) oci(args ...string) []string { return append(slices.Clone(e.runc), args...) }

func (b *bench) openBrigOCI(e *engine) (err error) {
	oci, root := filepath.Join(b.bin, "brig-oci"), filepath.Join(b.dir, "brig-oci")
	if e.version, err = firstLine(oci, "--version"); err != nil {
		return fmt.Errorf("%w: make build", err)
	}
	e.drop(oci, "--root", root)
	return nil
}

func (b *bench) openCrun(e *engine) (err error) {
	if e.version, err = firstLine("crun", "--version"); err != nil {
		return err
	}
	if why, err := machine.Hugetlb(); err != nil {
		return err
	} else if why != "" {
		fmt.Fprintln(os.Stderr, "bench:", why)
	}
	e.drop("crun", "--root", filepath.Join(b.dir, "crun"))
	return nil
}

func (b *bench) openRunc(e *engine) (err error) {
	if e.version, err = firstLine("runc", "--version"); err != nil {
		return err
	}
	e.drop("runc", "--root", filepath.Join(b.dir, "runc"))
	return nil
}

func (b *bench) openBwrap(e *engine) (err error) {
	if e.version, err = firstLine("bwrap", "--version"); err != nil {
		return err
	}
	e.bundle = func(dir, _ string) []string {
		return []string{"bwrap", "--unshare-all", "--bind", filepath.Join(dir, "rootfs"), "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"}
	}
	return nil
}
