package monitor

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/internal/base/lock"
	"brig/internal/runtime/microvm/template"
	"brig/internal/runtime/microvm/wire"
)

// mostTemplates is how many are kept: those that were used last.
const mostTemplates = 4

// makeTemplate makes a template, unless somebody else makes one. It runs outside of any box, and has the rest done in one, where nothing but the template's own folder can
// be written to. A template is there as a whole or not at all: its folder gets its name when it is complete.
func makeTemplate() error {
	var job wire.Job
	if err := json.Unmarshal([]byte(os.Getenv(wire.JobVar)), &job); err != nil {
		return fmt.Errorf("%s: %w", wire.JobVar, err)
	}
	held, err := lock.Try(filepath.Join(job.Dir, wire.LockName))
	if errors.Is(err, lock.ErrHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer held.Release()
	if _, err := os.Stat(filepath.Join(job.Dir, job.Name)); err == nil {
		return nil
	}
	entries, err := os.ReadDir(job.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries { // of who was killed
		if strings.HasPrefix(e.Name(), wire.New("")) {
			if err := os.RemoveAll(filepath.Join(job.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	said, err := inBox(&job)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, said)
		os.WriteFile(filepath.Join(job.Dir, wire.Reason(job.Name)), []byte(err.Error()+"\n"), 0o600) //nolint:errcheck // the next one tries again, then
		return err
	}
	return keepFew(job.Dir, job.Name)
}

// inBox has the template made, and gives it its name. What was said meanwhile is for who asks why it failed.
func inBox(job *wire.Job) (said string, err error) {
	dir := filepath.Join(job.Dir, wire.New(job.Name))
	defer os.RemoveAll(dir)
	for _, d := range []string{dir, filepath.Join(dir, wire.OutDir), filepath.Join(dir, "rootfs"), filepath.Join(dir, "oci")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(filepath.Join(dir, "rootfs"), 0o755); err != nil { // QEMU is not root
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), job.Config, 0o600); err != nil {
		return "", err
	}
	var console tail
	c := exec.Command(job.Runtime, "--root", filepath.Join(dir, "oci"), "run", "--bundle", dir, "brig-template-"+job.Name)
	c.Stdout, c.Stderr, c.Dir = &console, &console, "/"
	in, err := c.StdinPipe() // at whose end the box ends
	if err != nil {
		return "", err
	}
	defer in.Close()
	if err := c.Run(); err != nil {
		return console.String(), fmt.Errorf("the template of a virtual machine: %w", err)
	}
	return console.String(), os.Rename(filepath.Join(dir, wire.OutDir), filepath.Join(job.Dir, job.Name))
}

// keepFew removes the templates that were not used for longest.
func keepFew(dir, but string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	type used struct {
		name string
		at   time.Time
	}
	var list []used
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() && e.Name() != but {
			list = append(list, used{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(list, func(a, b used) int { return cmp.Or(b.at.Compare(a.at), strings.Compare(a.name, b.name)) })
	for _, t := range list[min(len(list), mostTemplates-1):] {
		if err := template.Remove(dir, t.name); err != nil {
			return err
		}
	}
	return nil
}
