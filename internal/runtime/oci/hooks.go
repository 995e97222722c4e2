package oci

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/weak"
)

// RunHooks runs hooks one after the other, each with the container's state (JSON) on its standard input, from the calling thread, so in its namespaces. The
// first one that fails, or takes longer than its timeout, is the error. name is the list's in config.json: hooks.NAME.
func RunHooks(name string, hooks []specs.Hook, state []byte) error {
	for i := range hooks {
		if err := runHook(&hooks[i], state); err != nil {
			return fmt.Errorf("hooks.%s[%d]: %s: %w", name, i, hooks[i].Path, err)
		}
	}
	return nil
}

// RunEveryHook is RunHooks for those whose failure is no reason to leave out the others: runtime.md, "Lifecycle", steps 10 and 13.
func RunEveryHook(name string, hooks []specs.Hook, state []byte) (failed []error) {
	for i := range hooks {
		if err := runHook(&hooks[i], state); err != nil {
			failed = append(failed, fmt.Errorf("hooks.%s[%d]: %s: %w", name, i, hooks[i].Path, err))
		}
	}
	return failed
}

// maxHookWords is how much of what a failed hook wrote to its standard error goes into the error, in bytes.
const maxHookWords = 4 << 10

func runHook(h *specs.Hook, state []byte) error {
	in, err := memFile("state", state)
	if err != nil {
		return err
	}
	defer in.Close()
	words, err := memFile("stderr", nil)
	if err != nil {
		return err
	}
	defer words.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	env := h.Env
	if env == nil {
		env = []string{} // nil would be this process's own
	}
	p, err := os.StartProcess(h.Path, hookArgs(h), &os.ProcAttr{Env: env, Files: []*os.File{in, null, words}})
	if err != nil {
		return err
	}
	if h.Timeout != nil && *h.Timeout > 0 {
		limit := time.Duration(*h.Timeout) * time.Second
		timer := time.AfterFunc(limit, func() { p.Kill() })
		s, err := p.Wait()
		if !timer.Stop() {
			return fmt.Errorf("took longer than its timeout of %s", limit)
		}
		return hookResult(s, err, words)
	}
	s, err := p.Wait()
	return hookResult(s, err, words)
}

func hookResult(s *os.ProcessState, err error, words *os.File) error {
	if err != nil || s.Success() {
		return err
	}
	said := make([]byte, maxHookWords)
	n, _ := words.ReadAt(said, 0)
	if text := strings.TrimSpace(string(bytes.ToValidUTF8(said[:n], []byte("?")))); text != "" {
		return fmt.Errorf("%s: %s", s, text)
	}
	return fmt.Errorf("%s", s)
}

// memFile is a file in memory that holds data, at its start.
func memFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// validateHooks refuses hooks that could not be executed: config.md, "POSIX-platform Hooks".
func validateHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	for _, list := range []struct {
		name  string
		hooks []specs.Hook
	}{
		{"prestart", h.Prestart}, //nolint:staticcheck // deprecated, and still written by engines
		{"createRuntime", h.CreateRuntime}, {"createContainer", h.CreateContainer}, {"startContainer", h.StartContainer},
		{"poststart", h.Poststart}, {"poststop", h.Poststop},
	} {
		if n := len(list.hooks); n > maxHooks && !weak.Size {
			return api.Errorf(api.InvalidArgument, "config.json: hooks.%s: %d are too many: at most %d", list.name, n, maxHooks)
		}
		for i := range list.hooks {
			k := &list.hooks[i]
			if !strings.HasPrefix(k.Path, "/") {
				return api.Errorf(api.InvalidArgument, "config.json: hooks.%s[%d].path: %q is not an absolute path", list.name, i, k.Path)
			}
			if k.Timeout != nil && *k.Timeout <= 0 {
				return api.Errorf(api.InvalidArgument, "config.json: hooks.%s[%d].timeout: %d is not greater than zero", list.name, i, *k.Timeout)
			}
		}
	}
	return nil
}
