package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const levelCase = "levels of isolation"

// measure is one cost that the levels are compared by.
type measure struct {
	name, unit string
	what       string // for the page
	args       []string
	per        float64 // how many of the unit are in a run of args; 0: it is not made of a command that is executed in a container
	digits     int
}

// measures are all of them. What an exec itself takes is taken off from those that are made of one.
func measures() []measure {
	sh := func(script string) []string { return []string{"sh", "-c", script} }
	return []measure{
		{name: "start", unit: "ms", what: "`run --rm IMAGE true`, the whole command", digits: 1},
		{name: "exec", unit: "ms", what: "`exec NAME true`, the whole command", digits: 1},
		{name: "memory", unit: "MiB", what: "of an idle container with all that keeps it, proportional set size", digits: 1},
		{name: "system call", unit: "µs", what: "read(2) or write(2) of one byte (dd of /dev/zero)", args: sh("dd if=/dev/zero of=/dev/null bs=1 count=100000 2>/dev/null"), per: 200, digits: 2},
		{name: "processor", unit: "ms", what: "SHA-256 of 16 MiB", args: sh("dd if=/dev/zero bs=1M count=16 2>/dev/null | sha256sum"), per: 1, digits: 0},
		{name: "processes", unit: "ms", what: "one fork, execve and wait (of 50 in a row)", args: sh("i=0; while [ $i -lt 50 ]; do /bin/true; i=$((i+1)); done"), per: 50, digits: 2},
		{name: "disk, written", unit: "ms", what: "64 MiB into a volume, with fsync(2)", args: sh("dd if=/dev/zero of=/data/f bs=1M count=64 conv=fsync 2>/dev/null"), per: 1, digits: 0},
		{name: "disk, read", unit: "ms", what: "the same 64 MiB again, from the host's cache", args: sh("dd if=/data/f of=/dev/null bs=1M 2>/dev/null"), per: 1, digits: 1},
		{name: "files", unit: "ms", what: "a hundred files made and removed in a volume", args: sh("mkdir /data/d; i=0; while [ $i -lt 100 ]; do : >/data/d/$i; i=$((i+1)); done; rm -r /data/d"), per: 1, digits: 1},
		{name: "request", unit: "ms", what: "one small file by HTTP, on a connection of its own", digits: 2},
		{name: "network", unit: "ms", what: "64 MiB by HTTP", digits: 0},
	}
}

// behind is where a measure is taken: on the machine itself, or at one level.
type behind struct {
	level string
	brig  []string // empty: on the machine itself
	host  string
	stop  func()
}

func (p *behind) run(root string, args ...string) []string {
	if p.brig == nil {
		return append([]string{"chroot", root}, args...)
	}
	return append(append(p.brig[:len(p.brig):len(p.brig)], "run", "--rm", "--isolation", p.level, imageName), args...)
}

func (p *behind) exec(root string, args ...string) []string {
	if p.brig == nil {
		return append([]string{"chroot", root}, args...)
	}
	return append(append(p.brig[:len(p.brig):len(p.brig)], "exec", "bench-"+p.level), args...)
}

// levelPage is where the measured page and its chart are written; empty: nowhere.
var levelPage string

// levels compares the levels of isolation that can be used here with a process without a container.
func levels(b *bench, _ testcase) error {
	var brig []string
	for _, e := range b.engines {
		if e.name == "brig" {
			brig = e.cli()
		}
	}
	if brig == nil {
		return errors.New("brig is not among the engines")
	}
	root := b.rootfs
	if err := os.MkdirAll(filepath.Join(root, "data"), 0o755); err != nil {
		return err
	}
	if err := b.do("mount", "--bind", "/dev", filepath.Join(root, "dev")); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(filepath.Join(root, "dev"), unix.MNT_DETACH) }()
	places, err := b.behinds(brig, root)
	defer func() {
		for _, p := range places {
			p.stop()
		}
	}()
	if err != nil {
		return err
	}
	all := measures()
	results := make([][]float64, len(all)) // by measure and place, medians
	execs := make([]float64, len(places))
	rounds := min(b.rounds, 15)
	for i, m := range all {
		samples := make([][]float64, len(places))
		for round := range rounds + 1 {
			for _, j := range rand.Perm(len(places)) {
				v, err := b.measure(&m, places[j], root)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", m.name, places[j].level, err)
				}
				if round > 0 {
					samples[j] = append(samples[j], v)
				}
			}
		}
		results[i] = make([]float64, len(places))
		for j := range places {
			v := quantile(samples[j], 0.5)
			switch {
			case m.name == "exec":
				execs[j] = v
			case m.per > 0:
				v = max(0, v-execs[j]) / m.per
			}
			results[i][j] = v
		}
	}
	table := levelTable(all, places, results)
	fmt.Printf("\n%s (medians of %d, load %s)\n%s", levelCase, rounds, load(), table)
	if levelPage == "" {
		return nil
	}
	if last := places[len(places)-1]; last.level == "vm" {
		starts, err := b.vmStarts(brig)
		if err != nil {
			return err
		}
		table += "\n" + starts
	}
	return writeLevelPage(levelPage, b.header(), all, places, results, table)
}

// behinds starts a server at every level that can be used here.
func (b *bench) behinds(brig []string, root string) (list []*behind, err error) {
	ask := append(brig[:len(brig):len(brig)], "info", "--format", "{{json .Isolation}}")
	out, err := exec.Command(ask[0], ask[1:]...).Output()
	if err != nil {
		return nil, err
	}
	var states []struct {
		Level     string
		Available bool
		Reason    string
	}
	if err := json.Unmarshal(out, &states); err != nil {
		return nil, fmt.Errorf("%s: %w", out, err)
	}
	const fill = "dd if=/dev/zero of=/data/big bs=1M count=64 2>/dev/null; echo small >/data/small; "
	server := exec.Command("chroot", root, "sh", "-c", fill+"exec httpd -f -p 7080 -h /data")
	if err := server.Start(); err != nil {
		return nil, err
	}
	list = append(list, &behind{level: "process", host: "127.0.0.1:7080", stop: func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}})
	for i, s := range states {
		if !s.Available {
			fmt.Fprintf(os.Stderr, "bench: without level %s: %s\n", s.Level, s.Reason)
			continue
		}
		if s.Level == "vm" { // whose starts are measured as users have them
			if err := b.madeTemplate(append(brig[:len(brig):len(brig)], "run", "--rm", "--isolation", "vm", imageName, "echo", booted)); err != nil {
				fmt.Fprintln(os.Stderr, "bench: level vm starts from nothing:", err)
			}
		}
		p := &behind{level: s.Level, brig: brig}
		name, port := "bench-"+s.Level, strconv.Itoa(7081+i)
		p.stop = func() { _ = b.do(append(brig[:len(brig):len(brig)], "rm", "-f", "-v", name)...) }
		list = append(list, p)
		if err := b.do(append(brig[:len(brig):len(brig)], "run", "-d", "--name", name, "--isolation", s.Level, "-v", name+":/data", imageName,
			"sh", "-c", fill+"exec httpd -f -p "+port+" -h /data")...); err != nil {
			return list, err
		}
		out, err := exec.Command(brig[0], append(brig[1:len(brig):len(brig)], "inspect", "--format", "{{.NetworkSettings.IPAddress}}", name)...).Output()
		if err != nil {
			return list, err
		}
		host := strings.TrimSpace(string(out))
		if host == "" {
			host = "127.0.0.1"
		}
		p.host = net.JoinHostPort(host, port)
	}
	for _, p := range list {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			if _, err := fetch(p.host, "small"); err == nil {
				break
			} else if time.Now().After(deadline) {
				return list, fmt.Errorf("level %s: its server does not answer: %w", p.level, err)
			}
		}
	}
	return list, nil
}

func fetch(host, path string) (int64, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Get("http://" + host + "/" + path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return n, err
}

// measure takes one measure once: milliseconds, or MiB.
func (b *bench) measure(m *measure, p *behind, root string) (float64, error) {
	ms := func(d time.Duration, err error) (float64, error) { return float64(d) / float64(time.Millisecond), err }
	switch m.name {
	case "start":
		return ms(clock(p.run(root, "true")))
	case "exec":
		return ms(clock(p.exec(root, "true")))
	case "memory":
		return p.memory()
	case "request", "network":
		path, times, want := "small", 20, int64(len("small\n"))
		if m.name == "network" {
			path, times, want = "big", 1, 64<<20
		}
		begin := time.Now()
		for range times {
			if n, err := fetch(p.host, path); err != nil || n != want {
				return 0, fmt.Errorf("%d bytes of %s: %w", n, path, err)
			}
		}
		d, err := ms(time.Since(begin), nil)
		return d / float64(times), err
	}
	return ms(clock(p.exec(root, m.args...)))
}

// memory is the proportional set size of the keeper and all that it has started, in MiB.
func (p *behind) memory() (float64, error) {
	if p.brig == nil {
		return 0, nil
	}
	out, err := exec.Command(p.brig[0], append(p.brig[1:len(p.brig):len(p.brig)], "inspect", "--format", "{{.State.Pid}}", "bench-"+p.level)...).Output()
	if err != nil {
		return 0, err
	}
	first, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return 0, err
	}
	parents := map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			data, _ := os.ReadFile("/proc/" + e.Name() + "/stat")
			if _, rest, ok := strings.Cut(string(data), ") "); ok {
				if f := strings.Fields(rest); len(f) > 1 {
					parents[pid], _ = strconv.Atoi(f[1])
				}
			}
		}
	}
	keeper, total := parents[first], int64(0)
	for pid := range parents {
		for at := pid; at > 1; at = parents[at] {
			if at == keeper {
				total += pssOf(pid)
				break
			}
		}
	}
	return float64(total) / 1024, nil
}

// levelTable is the result in Markdown.
func levelTable(all []measure, places []*behind, results [][]float64) string {
	var s strings.Builder
	s.WriteString("| cost |")
	for _, p := range places {
		s.WriteString(" " + p.level + " |")
	}
	s.WriteString("\n|---|" + strings.Repeat("---:|", len(places)) + "\n")
	for i, m := range all {
		fmt.Fprintf(&s, "| %s, %s: %s |", m.name, m.unit, m.what)
		for j := range places {
			if v := results[i][j]; m.name == "memory" && j == 0 {
				s.WriteString(" |")
			} else {
				fmt.Fprintf(&s, " %.*f |", m.digits, v)
			}
		}
		s.WriteString("\n")
	}
	return s.String()
}

// writeLevelPage writes levels.md and levels.svg.
func writeLevelPage(dir, about string, all []measure, places []*behind, results [][]float64, table string) error {
	page := "# What each level of isolation costs\n\nThe same image, the same command, behind each wall that this machine has, beside a process without a container. `make levels` measures it anew and writes this page.\n\n" +
		"![cost of each level, as a multiple of the process's](levels.svg)\n\n" + table +
		"\nMedians, taken in turns in one run. Of what is executed in a container the time of an exec of `true` is taken off. The volume is a folder of the host's at every level. " +
		"Milliseconds are those of this machine only:\n\n```\n" + about + "```\n"
	if err := os.WriteFile(filepath.Join(dir, "levels.md"), []byte(page), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "levels.svg"), []byte(levelChart(all, places, results)), 0o644)
}

// levelChart draws bars on a logarithmic scale: how many times the process's cost each level's is. What a process does not have, memory and starts of its own, is beside level container.
func levelChart(all []measure, places []*behind, results [][]float64) string {
	const left, width, bar, gap = 120, 520, 12, 14
	colours := []string{"#7a7a7a", "#c58b2a", "#2f6f9f", "#7d4f9e", "#b0413e"}
	height := 40
	for range all {
		height += len(places)*bar + gap
	}
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11"><rect width="100%%" height="100%%" fill="white"/>`, left+width+60, height+20)
	x := func(ratio float64) float64 { // 0.5 to 1,000
		return left + width*(math.Log10(min(max(ratio, 0.5), 1000))-math.Log10(0.5))/(3-math.Log10(0.5))
	}
	for _, mark := range []float64{1, 10, 100, 1000} {
		fmt.Fprintf(&s, `<line x1="%.0f" y1="24" x2="%.0f" y2="%d" stroke="#ddd"/><text x="%.0f" y="18" text-anchor="middle" fill="#555">%gx</text>`, x(mark), x(mark), height, x(mark), mark)
	}
	y := 30
	for i, m := range all {
		base := results[i][0]
		if m.name == "memory" && len(places) > 1 {
			base = results[i][1]
		}
		fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+len(places)*bar/2+4, m.name)
		for j := range places {
			if v := results[i][j]; v > 0 && base > 0 {
				end := x(v / base)
				fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" font-size="9" fill="#333">%.1fx</text>`,
					left, y, end-left, bar-2, colours[j%len(colours)], end+3, y+bar-3, v/base)
			}
			y += bar
		}
		y += gap
	}
	for j, p := range places {
		fmt.Fprintf(&s, `<rect x="%d" y="%d" width="10" height="10" fill="%s"/><text x="%d" y="%d">%s</text>`, left+j*95, height+2, colours[j%len(colours)], left+j*95+14, height+11, p.level)
	}
	s.WriteString("</svg>\n")
	return s.String()
}
