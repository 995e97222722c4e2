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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

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
	if err := removeKernelDrafts(dir); err != nil {
		return k, err
	}
	called := "kernel " + from.File
	if from.Package != "" {
		called = "the kernel of package " + from.Package
		tmp, err := os.MkdirTemp(dir, packagePrefix) // not where one that was killed may still write to
		if err != nil {
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
		return k, api.Errorf(api.InvalidArgument, "%s: %w", called, err)
	}
	if found.Trouble != "" {
		return k, api.Errorf(api.Unsupported, "%s, Linux %s, cannot be a virtual machine's: %s: `make guest-kernel` builds one that can", called, found.Version, found.Trouble)
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
		if err = removeKernelDrafts(filepath.Dir(e.vmKernel())); err == nil {
			err = os.Remove(e.vmKernel())
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return api.Errorf(api.NotFound, "there is no kernel in the store")
	case err != nil:
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(e.vmKernel()))
}

// packagePrefix begins the names of folders in which packages are unpacked.
const packagePrefix = "package-"

// removeKernelDrafts removes what installs that were killed have left, for who holds their lock.
func removeKernelDrafts(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), packagePrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(err, removeDrafts(dir, isDraft))
}

// forgetKernelDrafts is removeKernelDrafts where nobody installs one.
func (e *Engine) forgetKernelDrafts() error {
	l, err := lock.Try(filepath.Join(filepath.Dir(e.vmKernel()), ".lock"))
	if err != nil {
		return nil //nolint:nilerr // somebody does, or there never was one
	}
	defer l.Release()
	return removeKernelDrafts(filepath.Dir(e.vmKernel()))
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

// unpackKernel has the distribution's own programs fetch a package with a kernel, or one that depends on such a package, and those with its modules where they are others, and unpack them
// in dir. Nothing is installed.
func unpackKernel(ctx context.Context, name, dir string, say func(string)) (from api.VMKernelSource, err error) {
	const most = 6 // packages
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		return from, err
	}
	wanted := []string{name}
	for n := 0; n < len(wanted) && n < most; n++ {
		if from.File != "" && !strings.HasPrefix(wanted[n], modulesPackage) {
			continue // one kernel is enough
		}
		depends, err := unpackPackage(ctx, wanted[n], filepath.Join(dir, strconv.Itoa(n)), files, say)
		if err != nil {
			return from, err
		}
		if from.File == "" {
			from.File, err = kernelIn(files)
		}
		if err != nil {
			return from, fmt.Errorf("package %s: %w", wanted[n], err)
		}
		for _, d := range dependencies(depends) {
			if !slices.Contains(wanted, d) {
				wanted = append(wanted, d)
			}
		}
	}
	if from.File == "" {
		return from, api.Errorf(api.InvalidArgument, "package %s: it has no kernel, and depends on none: on Debian linux-image-cloud-amd64 has one", name)
	}
	from.Modules = filepath.Join(files, "lib", "modules")
	if !isPlain(files, "lib", "modules") {
		from.Modules = filepath.Join(files, "usr", "lib", "modules")
	}
	return from, nil
}

// kernelIn is the kernel in a folder that a package was unpacked in; none: it has none. Nothing in such a folder may be a link on the way to what is read of it.
func kernelIn(files string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(files, "boot"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	kernel := ""
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "vmlinuz-") {
			kernel = e.Name()
		}
	}
	if kernel == "" {
		return "", nil
	}
	config := strings.Replace(kernel, "vmlinuz-", "config-", 1)
	for _, parts := range [][]string{{"boot", kernel}, {"boot", config}, {"lib", "modules"}, {"usr", "lib", "modules"}} {
		if _, err := os.Lstat(filepath.Join(append([]string{files}, parts...)...)); err == nil && !isPlain(files, parts...) {
			return "", fmt.Errorf("/%s is reached by a link, or is no file or folder", filepath.Join(parts...))
		}
	}
	return filepath.Join(files, "boot", kernel), nil
}

// isPlain reports whether a path below dir is a file or a folder, without a link on the way.
func isPlain(dir string, parts ...string) bool {
	for i := range parts {
		dir = filepath.Join(dir, parts[i])
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() && (i < len(parts)-1 || !info.Mode().IsRegular()) {
			return false
		}
	}
	return true
}

// unpackPackage fetches a package into dir and unpacks it in files. depends is what it says that it depends on.
func unpackPackage(ctx context.Context, name, dir, files string, say func(string)) (depends string, err error) {
	if !isPackage(name) {
		return "", api.Errorf(api.InvalidArgument, "package %q: it is no name of a package", name)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	fetch := []string{"-q", "-o", "APT::Sandbox::User=root", "download"} // who fetches otherwise cannot look into the store
	outdated := func(err error) error {
		return api.Errorf(api.Unavailable, "package %s: %w: `apt-get update` first, if the host's lists of packages are old", name, err)
	}
	// What is no name is taken for a pattern, which may be all packages.
	list, err := ask(ctx, dir, "apt-get", append(fetch, "--print-uris", name)...)
	if err != nil {
		return "", outdated(err)
	}
	if one := strings.Fields(strings.TrimSpace(list)); len(one) < 2 || strings.Count(strings.TrimSpace(list), "\n") > 0 || !strings.HasPrefix(one[1], name+"_") {
		return "", api.Errorf(api.NotFound, "package %s: there is none of exactly that name", name)
	}
	say("fetching " + name)
	if _, err := ask(ctx, dir, "apt-get", append(fetch, name)...); err != nil {
		return "", outdated(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if len(entries) != 1 || !strings.HasSuffix(entries[0].Name(), ".deb") {
		return "", fmt.Errorf("package %s: apt-get left %d files", name, len(entries))
	}
	archive := filepath.Join(dir, entries[0].Name())
	say("unpacking " + entries[0].Name())
	if _, err := ask(ctx, dir, "dpkg-deb", "-x", archive, files); err != nil {
		return "", fmt.Errorf("package %s: %w", name, err)
	}
	if depends, err = ask(ctx, dir, "dpkg-deb", "-f", archive, "Depends"); err != nil {
		return "", fmt.Errorf("package %s: %w", name, err)
	}
	return depends, os.Remove(archive)
}

// Packages with kernels, and with their modules where those are not in the same.
const (
	imagePackage   = "linux-image-"
	modulesPackage = "linux-modules-"
)

// dependencies are the packages with kernels and modules among those on which another depends.
func dependencies(depends string) (names []string) {
	for p := range strings.FieldsFuncSeq(depends, func(r rune) bool { return r == ',' || r == '|' }) {
		p = strings.TrimSpace(p)
		if i := strings.IndexAny(p, " (:["); i >= 0 {
			p = p[:i]
		}
		if strings.HasPrefix(p, imagePackage) || strings.HasPrefix(p, modulesPackage) {
			names = append(names, p)
		}
	}
	return names
}

// ask runs a program in a folder and returns what it prints; an error has the last that it said. It ends with all that it has started when ctx does.
func ask(ctx context.Context, dir string, program string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch said := strings.TrimSpace(stderr.String()); {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s is not installed: packages are fetched on Debian and its kin alone", program)
	case err != nil && said != "":
		return "", fmt.Errorf("%s: %s", program, said[strings.LastIndexByte(said, '\n')+1:])
	case err != nil:
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
		switch f, err := os.OpenFile(config, os.O_RDONLY|unix.O_NONBLOCK, 0); {
		case err == nil:
			defer f.Close()
			if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
				return errors.Join(fmt.Errorf("%s: it is no file", config), err)
			}
			settings = f
		case !beside || !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	cmd := exec.CommandContext(ctx, e.vm().Monitor, wire.ArgKernel)
	var stderr bytes.Buffer
	cmd.Env = []string{"PATH=/usr/bin:/bin", wire.ModulesVar + "=" + from.Modules}
	if from.Modules != "" {
		if info, err := os.Stat(from.Modules); err != nil || !info.IsDir() {
			return errors.Join(fmt.Errorf("modules at %s: it is no folder", from.Modules), err)
		}
	}
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
	case found.Taken && from != (api.VMKernelSource{File: from.File}):
		return errors.New("it is one that was installed, with its configuration and modules: --config and --modules do not go with it")
	case len(found.Lacks) > 0:
		k.Trouble = "it lacks " + strings.Join(found.Lacks, "; ")
	case found.PC && !found.Taken && k.Source != "" && k.Source != "host": // where machines take it from
		k.Trouble = "its devices are modules, or on PCI: `brig vm kernel install` makes a kernel for machines of it"
	}
	return nil
}
