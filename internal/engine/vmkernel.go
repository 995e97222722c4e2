package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
			err = e.readKernel(ctx, &k, "", nil)
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
func (e *Engine) InstallVMKernel(ctx context.Context, path, config string) (api.VMKernel, error) {
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
	draft, err := os.OpenFile(k.Path+".tmp", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return k, err
	}
	defer func() {
		draft.Close()
		_ = os.Remove(draft.Name()) // unless it is the kernel now
	}()
	found := api.VMKernel{Path: path}
	if err := e.readKernel(ctx, &found, config, draft); err != nil {
		return k, api.Errorf(api.InvalidArgument, "kernel %s: %w", path, err)
	}
	if found.Trouble != "" {
		return k, api.Errorf(api.Unsupported, "kernel %s, Linux %s, cannot be a virtual machine's: %s: `make guest-kernel` builds one that can", path, found.Version, found.Trouble)
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

// readKernel has brig-vm look into the file at k.Path and enters what it is; out gets the form that QEMU starts. config is a file that says what it was built with; empty: one
// beside it, as /boot/config-VERSION is beside /boot/vmlinuz-VERSION, if there is one.
func (e *Engine) readKernel(ctx context.Context, k *api.VMKernel, config string, out *os.File) error {
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
	settings := null
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
	if out == nil {
		out = null
	}
	cmd := exec.CommandContext(ctx, e.vm().Monitor, wire.ArgKernel)
	var stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = []string{"PATH=/usr/bin:/bin"}, in, &stderr, []*os.File{settings, out} // 3: wire.KernelConfigFD
	answer, err := cmd.Output()
	if said := strings.TrimPrefix(strings.TrimSpace(stderr.String()), "brig: "); err != nil && said != "" {
		return errors.New(said)
	}
	if err != nil {
		return err
	}
	var found struct {
		Version string
		Lacks   []string
	}
	if err := json.Unmarshal(answer, &found); err != nil {
		return err
	}
	k.Version = found.Version
	if len(found.Lacks) > 0 {
		k.Trouble = "it lacks " + strings.Join(found.Lacks, "; ")
	}
	return nil
}
