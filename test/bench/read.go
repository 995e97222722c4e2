package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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

// shelf is an engine whose store is on a file system of its own, so that what the kernel has of it in memory can be dropped without
// touching the rest of the machine: by mounting it anew.
type shelf struct {
	name, disk, dir string
	pull            []string
	run             func(name string, args ...string) []string
}

// mount attaches the disk by a loop device that does not cache, and that goes with the mount.
func (s *shelf) mount() error {
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", s.disk).CombinedOutput()
	device := strings.TrimSpace(string(out))
	if err != nil {
		return fmt.Errorf("losetup %s: %w: %s", s.disk, err, device)
	}
	err = unix.Mount(device, s.dir, "ext4", 0, "")
	_ = exec.Command("losetup", "--detach", device).Run() // while it is mounted: when it is not any more
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", device, s.dir, err)
	}
	return nil
}

// unmount waits for what the last container may still hold.
func (s *shelf) unmount() (err error) {
	unmountBelow(s.dir)
	for range 100 {
		if err = unix.Unmount(s.dir, 0); err != unix.EBUSY {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", s.dir, err)
	}
	return nil
}

// shelves are the engines without a daemon: one with a daemon could not be parted from its store.
func (b *bench) shelves(ref string) []*shelf {
	var all []*shelf
	for _, e := range b.engines {
		s := &shelf{name: e.name, disk: filepath.Join(b.dir, e.name+".disk"), dir: filepath.Join(b.dir, e.name+"-shelf")}
		switch e.name {
		case "brig":
			brig := []string{filepath.Join(b.bin, "brig"), "--root", filepath.Join(s.dir, "root"), "--state", filepath.Join(b.dir, "shelf-state")}
			s.pull = append(brig[:len(brig):len(brig)], "pull", "-q", ref)
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
		if err := s.fill(b); err != nil {
			return err
		}
		defer os.Remove(s.disk)
		defer unix.Unmount(s.dir, unix.MNT_DETACH)
		defer unmountBelow(s.dir)
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

// fill makes the file system and has the engine pull the image into it.
func (s *shelf) fill(b *bench) error {
	f, err := os.Create(s.disk)
	if err != nil {
		return err
	}
	err = f.Truncate(6 << 30) // most of it is never written
	f.Close()
	if err != nil {
		return err
	}
	if err := b.do("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", s.disk); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if err := s.mount(); err != nil {
		return err
	}
	return b.do(s.pull...)
}
