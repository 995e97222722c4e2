// Command bench measures Brig beside the container engines that are installed, on this machine, in one run.
//
// The rounds are interleaved: in each round every engine does the same thing once, in an order drawn anew, so that the noise of the
// machine falls on all alike. What is compared is therefore the ratio within a round; the milliseconds are of this machine only.
//
// All of it happens in private namespaces (package machine): bridges, firewall rules and mounts of the peers are never the machine's
// own, and their daemons end with the run.
//
//	go run ./test/bench [-rounds N] [-case REGEXP] [-engine NAME,…] [-gzip HOW] [-page FOLDER] [-install]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

// packages are Debian's names for the peers and for what the cases need.
var packages = []string{
	"runc", "crun", "podman", "containerd", "docker.io", "bubblewrap", "skopeo", "umoci", "mmdebstrap", "docker-registry", "busybox-static",
	"iptables", "nftables", "e2fsprogs",
}

// bench is one run: its engines, its scratch folder, its settings.
type bench struct {
	ctx     context.Context
	dir     string // scratch, removed at the end
	bin     string // folder with brig, brig-oci, brig-image
	rounds  int
	engines []*engine
	rootfs  string // folder with busybox, for bundles
	archive string // docker-archive of the same, named imageName

	registry *machine.Registry // for the big image; nil until a case needs it
}

func main() {
	rounds := flag.Int("rounds", 30, "rounds of each timed case")
	cases := flag.String("case", ".", "cases to run, a regular expression")
	only := flag.String("engine", "", "engines to run, comma-separated; empty: all that are installed")
	bin := flag.String("bin", "bin", "folder with the programs of Brig")
	packed := flag.String("gzip", machine.Mixed, "compressor of the big image's layers: go, gnu, pgz or mixed")
	flag.StringVar(&levelPage, "page", "", "folder for levels.md and levels.svg, of the case \""+levelCase+"\"")
	install := flag.Bool("install", false, "install the peers with apt-get first")
	flag.Parse()
	pick, err := regexp.Compile(*cases)
	if err != nil {
		fatal(fmt.Errorf("-case: %w", err))
	}
	if os.Geteuid() != 0 {
		fatal(fmt.Errorf("the bench makes namespaces and starts daemons: run it as root"))
	}
	if *install && !machine.Inside() {
		if err := apt(packages); err != nil {
			fatal(err)
		}
	}
	if !machine.Inside() && pick.MatchString(pullCase) {
		tarball, err := machine.DebianTarball(".cache")
		if err != nil {
			fatal(err)
		}
		if err := os.Setenv(debianEnv, tarball); err != nil {
			fatal(err)
		}
	}
	if !machine.Inside() && pick.MatchString(serverCase) {
		tarball, err := machine.DebianTarball(".cache", machine.Servers()...)
		if err != nil {
			fatal(err)
		}
		if err := os.Setenv(serverEnv, tarball); err != nil {
			fatal(err)
		}
	}
	if !machine.Inside() && slices.ContainsFunc([]string{bigPullCase, changedCase, tenCase, readCase}, pick.MatchString) {
		layout, err := machine.BigImage(".cache", *packed)
		if err != nil {
			fatal(err)
		}
		if err := os.Setenv(bigEnv, layout); err != nil {
			fatal(err)
		}
	}
	if err := machine.Private(false); err != nil {
		fatal(err)
	}
	if err := run(*rounds, pick, *only, *bin); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

func apt(names []string) error {
	cmd := exec.Command("apt-get", append([]string{"install", "-y", "-q", "--no-install-recommends"}, names...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get install: %w", err)
	}
	return nil
}

func run(rounds int, pick *regexp.Regexp, only, bin string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "brig-bench-")
	if err != nil {
		return err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	b := &bench{ctx: ctx, dir: dir, bin: bin, rounds: rounds}
	before, err := groups()
	if err != nil {
		return err
	}
	defer func() {
		for _, e := range slices.Backward(b.engines) {
			e.close()
		}
		unmountBelow(dir)
		removeGroups(before)
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
	}()
	if err := b.prepare(); err != nil {
		return err
	}
	b.open(func(name string) bool { return only == "" || slices.Contains(strings.Split(only, ","), name) })
	if len(b.engines) == 0 {
		return fmt.Errorf("no engine to measure: run make build, or -install")
	}
	fmt.Print(b.header())
	for _, c := range allCases() {
		if pick.MatchString(c.name) && ctx.Err() == nil {
			if err := c.run(b, c); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return ctx.Err()
}

// header says what was measured, and on what.
func (b *bench) header() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	s := fmt.Sprintf("Linux %s, %d CPUs, %d rounds\n", unix.ByteSliceToString(u.Release[:]), cpus(), b.rounds)
	for _, e := range b.engines {
		s += fmt.Sprintf("  %-10s %s\n", e.name, e.version)
	}
	return s
}
