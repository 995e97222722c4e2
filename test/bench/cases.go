package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// testcase is one comparison.
type testcase struct {
	name string
	run  func(*bench, testcase) error
}

const pullCase = "pull from a registry on loopback"

func allCases() []testcase {
	return []testcase{
		{"run --rm, network none", timedRun("none")},
		{"run --rm, bridge network", timedRun("bridge")},
		{"OCI runtime alone", bundles},
		{"OCI runtime, exec", ociExecs},
		{"exec in a running container", execs},
		{"100 starts, 8 at a time", parallel},
		{pullCase, pulls},
		{bigPullCase, bigPulls},
		{changedCase, changedPulls},
		{tenCase, tenPulls},
		{readCase, reads},
		{serverCase, servers},
		{crowdCase, crowd},
		{levelCase, levels},
		{vmCase, vmStarts},
		{"memory of an idle container", memory},
	}
}

// timed is one engine's command of a case; after, if set, runs behind each round, outside of the time.
type timed struct {
	engine *engine
	argv   func(round int) []string
	after  func(round int) error
}

// interleave runs the commands rounds times, in an order drawn anew each round, after two rounds that are not counted.
func (b *bench) interleave(rounds int, cmds []timed) []series {
	all := make([]series, len(cmds))
	for i, c := range cmds {
		all[i].engine = c.engine.name
	}
	const warm = 2
	for round := range rounds + warm {
		for _, i := range rand.Perm(len(cmds)) {
			if all[i].err != nil || b.ctx.Err() != nil {
				continue
			}
			took, err := clock(cmds[i].argv(round))
			if err == nil && cmds[i].after != nil {
				err = cmds[i].after(round)
			}
			if all[i].err = err; err == nil && round >= warm {
				all[i].took = append(all[i].took, took)
			}
		}
	}
	return all
}

// clock measures one command from before its fork to after its end. Its output goes nowhere, unless it fails: then it is run again to
// be shown in the error, since a pipe to read from would be part of the time.
func clock(argv []string) (time.Duration, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	begin := time.Now()
	p, err := os.StartProcess(path, argv, &os.ProcAttr{Files: []*os.File{null, null, null}})
	if err != nil {
		return 0, err
	}
	state, err := p.Wait()
	took := time.Since(begin)
	if err == nil && !state.Success() {
		out, again := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if again == nil {
			return took, fmt.Errorf("%v: %s; a second try went well", argv, state)
		}
		err = fmt.Errorf("%v: %s; once more: %w: %s", argv, state, again, out[max(0, len(out)-400):])
	}
	return took, err
}

func timedRun(network string) func(*bench, testcase) error {
	return func(b *bench, c testcase) error {
		var cmds []timed
		for _, e := range b.engines {
			if e.run == nil || e.run(network, "x") == nil {
				continue
			}
			cmds = append(cmds, timed{engine: e, argv: func(round int) []string { return e.run(network, fmt.Sprint("bench-r", round), "true") }})
		}
		if network == "none" { // an OCI runtime alone, beside the engines that have one below them
			dir, err := b.bundle("/bin/true")
			if err != nil {
				return err
			}
			for _, e := range b.engines {
				if e.runc != nil {
					cmds = append(cmds, timed{engine: e, argv: func(round int) []string { return e.bundle(dir, fmt.Sprint("bench-n", round)) }})
				}
			}
		}
		report(os.Stdout, c.name, b.interleave(b.rounds, cmds))
		return nil
	}
}

// bundle is the folder of the bundle that the OCI runtimes run, with these arguments.
func (b *bench) bundle(args ...string) (string, error) {
	dir := filepath.Join(b.dir, "bundle")
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if b.rootfs != rootfs {
		if err := os.Rename(b.rootfs, rootfs); err != nil {
			return "", err
		}
		b.rootfs = rootfs
	}
	return dir, writeSpec(dir, args)
}

func bundles(b *bench, c testcase) error {
	dir, err := b.bundle("/bin/true")
	if err != nil {
		return err
	}
	var cmds []timed
	for _, e := range b.engines {
		if e.bundle != nil {
			cmds = append(cmds, timed{engine: e, argv: func(round int) []string { return e.bundle(dir, fmt.Sprint("bench-o", round)) }})
		}
	}
	report(os.Stdout, c.name, b.interleave(b.rounds, cmds))
	return nil
}

// ociExecs has each OCI runtime execute true in a container of its own.
func ociExecs(b *bench, c testcase) error {
	dir, err := b.bundle("/bin/sleep", "3600")
	if err != nil {
		return err
	}
	var cmds []timed
	for _, e := range b.engines {
		if e.runc == nil {
			continue
		}
		id := "bench-idle-" + e.name
		// The container keeps the streams of its runtime.
		quiet := []string{"sh", "-c", `exec "$@" >/dev/null 2>&1`, "sh"}
		if err := b.do(append(quiet, e.oci("run", "--detach", "--bundle", dir, id)...)...); err != nil {
			return err
		}
		defer b.do(e.oci("delete", "--force", id)...)
		cmds = append(cmds, timed{engine: e, argv: func(int) []string { return e.oci("exec", id, "/bin/true") }})
	}
	report(os.Stdout, c.name, b.interleave(b.rounds, cmds))
	return nil
}

// writeSpec writes the config.json of `runc spec`, for other arguments and without a terminal.
func writeSpec(dir string, args []string) error {
	os.Remove(filepath.Join(dir, "config.json"))
	if err := exec.Command("runc", "spec", "--bundle", dir).Run(); err != nil {
		return fmt.Errorf("runc spec: %w", err)
	}
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		return err
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, args
	if data, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func execs(b *bench, c testcase) error {
	var cmds []timed
	for _, e := range b.engines {
		if e.exec == nil {
			continue
		}
		if err := b.do(e.start("bench-idle", "sleep", "3600")...); err != nil {
			return err
		}
		defer b.do(e.remove("bench-idle")...)
		cmds = append(cmds, timed{engine: e, argv: func(int) []string { return e.exec("bench-idle", "true") }})
	}
	report(os.Stdout, c.name, b.interleave(b.rounds, cmds))
	return nil
}

// parallel prints the time a start took when eight went on at once: the whole divided by a hundred.
func parallel(b *bench, c testcase) error {
	const starts, width, rounds = 100, 8, 3
	var all []series
	for _, e := range b.engines {
		if e.run != nil {
			all = append(all, series{engine: e.name})
		}
	}
	for round := range rounds {
		i := 0
		for _, e := range b.engines {
			if e.run == nil {
				continue
			}
			s := &all[i]
			i++
			if s.err != nil || b.ctx.Err() != nil {
				continue
			}
			begin := time.Now()
			if s.err = batch(e, round, starts, width); s.err == nil {
				s.took = append(s.took, time.Since(begin)/starts)
			}
		}
	}
	report(os.Stdout, c.name+" (ms a start)", all)
	return nil
}

// batch makes the given number of starts with width at a time and returns the first error.
func batch(e *engine, round, starts, width int) error {
	names := make([]string, starts)
	for n := range names {
		names[n] = fmt.Sprintf("bench-p%d-%d", round, n)
	}
	return each(width, names, func(name string) error {
		_, err := clock(e.run("none", name, "true"))
		return err
	})
}

// pulls fetches a Debian base system. Each round takes the image away again, outside of the time.
func pulls(b *bench, c testcase) error {
	ref, err := b.registryWithDebian()
	if err != nil {
		fmt.Printf("\n%s\n  left out: %v\n", c.name, err)
		return nil
	}
	var cmds []timed
	for _, e := range b.engines {
		if e.pull == nil {
			continue
		}
		cmds = append(cmds, timed{
			engine: e,
			argv:   func(int) []string { return e.pull(ref) },
			after:  func(int) error { return b.do(e.forget(ref)...) },
		})
	}
	report(os.Stdout, c.name, b.interleave(min(b.rounds, 3), cmds))
	return nil
}
