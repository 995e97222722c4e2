package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/lock"
	"brig/internal/runtime/microvm/wire"
	"brig/internal/store/garbage"
)

// vmKernel is the kernel of virtual machines in the store.
func (e *Engine) vmKernel() string { return filepath.Join(e.root, "vm", "kernel") }

// hostKernels are where distributions put the host's own.
const hostKernels = "/boot/vmlinuz-*"

// VMKernels are the kernels that virtual machines could have: those where one is looked for, in that order, and then those of the host, which would have to be installed.
func (e *Engine) VMKernels(ctx context.Context) (list []api.VMKernel, err error) {
	look := func(path, source string) error {
		k := api.VMKernel{Path: path, Source: source}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && source != kernelVar:
			return nil
		case err == nil && !info.Mode().IsRegular():
			err = errors.New("it is no file")
		}
		if err == nil {
			err = e.readKernel(ctx, &k, api.VMKernelSource{}, nil)
		}
		if err != nil {
			k.Trouble = err.Error()
		}
		list = append(list, k)
		return ctx.Err()
	}
	for _, path := range e.vm().Kernels {
		source := "brig"
		switch {
		case os.Getenv(kernelVar) != "":
			source = kernelVar
		case path == e.vmKernel():
			source = "store"
		}
		if err := look(path, source); err != nil {
			return nil, err
		}
	}
	if len(list) > 0 {
		list[0].Used = true
	}
	host, err := filepath.Glob(hostKernels)
	if err != nil {
		return nil, err
	}
	for _, path := range host {
		if err := look(path, "host"); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// InstallVMKernel takes a kernel into the store, in place of the one that is there. One that machines cannot have is refused.
func (e *Engine) InstallVMKernel(ctx context.Context, from api.VMKernelSource, say func(string)) (api.VMKernel, error) {
	k := api.VMKernel{Path: e.vmKernel(), Source: "store"}
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return k, err
	}
	dir := filepath.Dir(k.Path)
	if err := atomicfile.MakeDir(dir); err != nil {
		return k, err
	}
	l, err := lock.Take(filepath.Join(dir, ".lock"))
	if err != nil {
		return k, err
	}
	defer l.Release()
	if err := removeDrafts(dir, isDraft); err != nil {
		return k, err
	}
	if from.Package != "" {
		tmp := filepath.Join(dir, "package")
		if err := os.RemoveAll(tmp); err != nil { // of one that was killed
			return k, err
		}
		if err := os.Mkdir(tmp, 0o700); err != nil {
			return k, err
		}
		defer os.RemoveAll(tmp) //nolint:errcheck // the next one does
		if from, err = unpackKernel(ctx, from.Package, tmp, say); err != nil {
			return k, err
		}
	}
	draft, err := os.OpenFile(k.Path+".tmp", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return k, err
	}
	defer func() {
		draft.Close()
		_ = os.Remove(draft.Name()) // unless it is the kernel now
	}()
	say("reading " + filepath.Base(from.File))
	found := api.VMKernel{Path: from.File}
	if err := e.readKernel(ctx, &found, from, draft); err != nil {
		return k, api.Errorf(api.InvalidArgument, "kernel %s: %w", from.File, err)
	}
	if found.Trouble != "" {
		return k, api.Errorf(api.Unsupported, "kernel %s, Linux %s, cannot be a virtual machine's: %s: `make guest-kernel` builds one that can", from.File, found.Version, found.Trouble)
	}
	if err := draft.Chmod(0o644); err != nil { // QEMU, which is not root, reads it
		return k, err
	}
	if err := draft.Sync(); err != nil {
		return k, err
	}
	if err := os.Rename(draft.Name(), k.Path); err != nil {
		return k, err
	}
	k.Version, k.Used = found.Version, os.Getenv(kernelVar) == ""
	return k, atomicfile.SyncDir(dir)
}

// RemoveVMKernel takes the kernel out of the store. Machines that run keep theirs.
func (e *Engine) RemoveVMKernel(context.Context) error {
	l, err := lock.Take(filepath.Join(filepath.Dir(e.vmKernel()), ".lock"))
	if err == nil {
		defer l.Release()
		err = os.Remove(e.vmKernel())
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return api.Errorf(api.NotFound, "there is no kernel in the store")
	case err != nil:
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(e.vmKernel()))
}

// isPackage reports whether a name may be one of a package of Debian's, which no program takes for an option or a path.
func isPackage(name string) bool {
	for i, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (i == 0 || c != '-' && c != '+' && c != '.') {
			return false
		}
	}
	return len(name) > 1
}

// unpackKernel has the distribution's own programs fetch a package with a kernel, or one that only names such a package, and unpack it in dir. Nothing is installed.
func unpackKernel(ctx context.Context, name, dir string, say func(string)) (api.VMKernelSource, error) {
	const hops = 3 // of packages that name one
	for range hops {
		if !isPackage(name) {
			return api.VMKernelSource{}, api.Errorf(api.InvalidArgument, "package %q: it is no name of a package", name)
		}
		say("fetching " + name)
		// Who the packages are fetched as cannot look into the store.
		if _, err := ask(ctx, dir, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name); err != nil {
			return api.VMKernelSource{}, api.Errorf(api.Unavailable, "package %s: %w: `apt-get update` first, if the host's lists of packages are old", name, err)
		}
		archives, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		if err != nil || len(archives) != 1 {
			return api.VMKernelSource{}, fmt.Errorf("package %s: apt-get left %d archives: %w", name, len(archives), err)
		}
		files := filepath.Join(dir, "files")
		say("unpacking " + filepath.Base(archives[0]))
		if _, err := ask(ctx, dir, "dpkg-deb", "-x", archives[0], files); err != nil {
			return api.VMKernelSource{}, fmt.Errorf("package %s: %w", name, err)
		}
		kernels, err := filepath.Glob(filepath.Join(files, hostKernels))
		if err != nil {
			return api.VMKernelSource{}, err
		}
		if len(kernels) > 0 {
			folders := filepath.Join(files, "lib", "modules")
			if _, err := os.Stat(folders); err != nil {
				folders = filepath.Join(files, "usr", "lib", "modules")
			}
			return api.VMKernelSource{File: kernels[0], Modules: folders}, nil
		}
		depends, err := ask(ctx, dir, "dpkg-deb", "-f", archives[0], "Depends")
		if err != nil {
			return api.VMKernelSource{}, fmt.Errorf("package %s: %w", name, err)
		}
		next := kernelPackage(depends)
		if next == "" {
			break
		}
		name = next
		if err := errors.Join(os.Remove(archives[0]), os.RemoveAll(files)); err != nil {
			return api.VMKernelSource{}, err
		}
	}
	return api.VMKernelSource{}, api.Errorf(api.InvalidArgument, "package %s: it has no kernel: on Debian linux-image-cloud-amd64 has one", name)
}

// kernelPackage is the package with a kernel among those on which another depends.
func kernelPackage(depends string) string {
	for p := range strings.SplitSeq(depends, ",") {
		p, _, _ = strings.Cut(p, "|")
		if name, _, _ := strings.Cut(strings.TrimSpace(p), " "); strings.HasPrefix(name, "linux-image-") {
			return name
		}
	}
	return ""
}

// ask runs a program in a folder and returns what it prints; an error has the last that it said.
func ask(ctx context.Context, dir string, program string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is not installed: packages are fetched on Debian and its kin alone", program)
	}
	if said := strings.TrimSpace(stderr.String()); err != nil && said != "" {
		return "", fmt.Errorf("%s: %s", program, said[strings.LastIndexByte(said, '\n')+1:])
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	return stdout.String(), nil
}

// readKernel has brig-vm look into the file at k.Path and enters what it is; out gets the form that machines take, if there is one. from has the file that says what it was built with; none: one
// beside it, as /boot/config-VERSION is beside /boot/vmlinuz-VERSION, if there is one.
func (e *Engine) readKernel(ctx context.Context, k *api.VMKernel, from api.VMKernelSource, out *os.File) error {
	in, err := os.OpenFile(k.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(errors.New("it is no file"), err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	settings, config := null, from.Config
	beside := config == ""
	if name, ok := strings.CutPrefix(filepath.Base(k.Path), "vmlinuz-"); beside && ok {
		config = filepath.Join(filepath.Dir(k.Path), "config-"+name)
	}
	if config != "" {
		switch f, err := os.Open(config); {
		case err == nil:
			defer f.Close()
			settings = f
		case !beside || !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	cmd := exec.CommandContext(ctx, e.vm().Monitor, wire.ArgKernel)
	var stderr bytes.Buffer
	cmd.Env = []string{"PATH=/usr/bin:/bin", wire.ModulesVar + "=" + from.Modules}
	if out == nil {
		out, cmd.Env = null, append(cmd.Env, wire.LookVar+"=1")
	}
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = in, &stderr, []*os.File{settings, out} // 3: wire.KernelConfigFD
	answer, err := cmd.Output()
	if said := strings.TrimPrefix(strings.TrimSpace(stderr.String()), "brig: "); err != nil && said != "" {
		return errors.New(said)
	}
	if err != nil {
		return err
	}
	var found struct {
		Version   string
		Lacks     []string
		PC, Taken bool
	}
	if err := json.Unmarshal(answer, &found); err != nil {
		return err
	}
	k.Version = found.Version
	switch {
	case len(found.Lacks) > 0:
		k.Trouble = "it lacks " + strings.Join(found.Lacks, "; ")
	case found.PC && !found.Taken && k.Source != "" && k.Source != "host": // where machines take it from
		k.Trouble = "its devices are modules, or on PCI: `brig vm kernel install` makes a kernel for machines of it"
	}
	return nil
}
