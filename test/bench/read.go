package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"brig/test/machine"
)

// reading is what a container does with the files of the big image.
type reading struct {
	name string
	args []string
}

var readings = []reading{
	{"true", []string{"/bin/true"}}, // what the container itself costs
	{"every name", []string{"sh", "-c", "find / -xdev -ls >/dev/null"}},
	{"every byte", []string{"sh", "-c", "find / -xdev -type f -print0 | xargs -0 cat >/dev/null"}},
	{"python3", []string{"python3", "-c", "import asyncio, http.server, json, sqlite3, ssl, xml.dom.minidom"}},
	{"gcc -O2", []string{"sh", "-c", "echo 'int main(void) { return 0; }' | gcc -O2 -x c -S -o /dev/null -"}},
}

// shelf is an engine whose store is on a disk of its own.
type shelf struct {
	name, dir string // where the disk is mounted
	state     string // where layers of it are mounted, "" if nowhere
	pull      []string
	run       func(name string, args ...string) []string
	*disk
}

// unmount takes the disk away with all that is in memory of it.
func (s *shelf) unmount() error {
	if s.state != "" {
		unmountBelow(s.state)
	}
	return s.disk.unmount()
}

// shelves are the engines without a daemon: one with a daemon could not be parted from its store.
func (b *bench) shelves(ref string) []*shelf {
	var all []*shelf
	names := []string{}
	for _, e := range b.engines {
		if names = append(names, e.name); e.name == "brig" {
			names = append(names, "brig folder") // what the layers as images are worth
		}
	}
	for i, name := range names {
		s := &shelf{name: name, dir: filepath.Join(b.dir, fmt.Sprint("s", i))} // short: podman takes 50 characters at most
		switch name {
		case "brig", "brig folder":
			s.state = filepath.Join(b.dir, fmt.Sprint("state", i))
			brig := []string{filepath.Join(b.bin, "brig"), "--root", filepath.Join(s.dir, "root"), "--state", s.state}
			s.pull = append(brig[:len(brig):len(brig)], "pull", "-q", ref)
			if name != "brig" {
				s.pull = append([]string{"env", "BRIG_LAYERS=folder"}, s.pull...)
			}
			s.run = func(name string, args ...string) []string {
				return append(append(brig[:len(brig):len(brig)], "run", "--rm", "--name", name, "--network", "none", ref), args...)
			}
		case "podman":
			podman := machine.Podman(s.dir)
			s.pull = append(podman[:len(podman):len(podman)], "pull", "-q", "--tls-verify=false", ref)
			s.run = func(name string, args ...string) []string {
				argv := append(append(podman[:len(podman):len(podman)], "run", "--rm"), machine.PodmanLimits()...)
				return append(append(argv, "--name", name, "--network", "none", ref), args...)
			}
		default:
			continue
		}
		all = append(all, s)
	}
	return all
}

// reads has containers of the big image read its files: first with nothing of the store in memory, then once more.
func reads(b *bench, c testcase) error {
	r, err := b.bigRegistry()
	if err != nil {
		return err
	}
	ref := r.Address + "/big:latest"
	if err := r.PushLayout(os.Getenv(bigEnv)+":latest", ref); err != nil {
		return err
	}
	shelves := b.shelves(ref)
	for _, s := range shelves {
		if s.disk, err = b.newDisk(filepath.Join(b.dir, s.name+".disk"), s.dir); err != nil {
			return err
		}
		defer s.disk.close()
		if err := b.do(s.pull...); err != nil {
			return err
		}
	}
	rounds := min(b.rounds, bigRounds)
	for _, what := range readings {
		cold, warm := make([]series, len(shelves)), make([]series, len(shelves))
		for i, s := range shelves {
			cold[i].engine, warm[i].engine = s.name, s.name
		}
		for round := range rounds {
			for _, i := range rand.Perm(len(shelves)) {
				s := shelves[i]
				if cold[i].err != nil || b.ctx.Err() != nil {
					continue
				}
				settle()
				err := s.unmount()
				if err == nil {
					err = s.mount()
				}
				for n, into := range []*series{&cold[i], &warm[i]} {
					if err != nil {
						break
					}
					var took time.Duration
					if took, err = clock(s.run(fmt.Sprintf("bench-s%d-%d", round, n), what.args...)); err == nil {
						into.took = append(into.took, took)
					}
				}
				cold[i].err, warm[i].err = err, err
			}
		}
		report(os.Stdout, fmt.Sprintf("%s: %s, first (load %s)", c.name, what.name, load()), cold)
		report(os.Stdout, fmt.Sprintf("%s: %s, second", c.name, what.name), warm)
	}
	return nil
}
