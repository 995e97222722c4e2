package conform

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	tableFile = "runtime-tools.tsv"
	// programLimit is for one validation program; the slowest waits out a timeout of 10 s of its own.
	programLimit = 90 * time.Second
)

// verdict is how a validation program ended with a runtime:
//
//	pass   it ended with 0, has kept its plan, and complains of nothing
//	warn   the same, but it has no test points and its diagnostics hold an error: a plain reader of TAP takes this for a pass
//	skip   it had nothing to check
//	fail   any other end
type verdict string

// rank orders verdicts: brig-oci's must not be below that of another runtime.
func (v verdict) rank() int { return slices.Index([]verdict{"fail", "skip", "warn", "pass"}, v) }

// silent are programs that say by their exit code alone that the runtime refused a config, as it must.
func silent(program string) bool {
	return program == "process_capabilities_fail" || program == "process_rlimits_fail"
}

// racy says why a program is no sure witness: which of two things comes first is left to chance in it, and a quick runtime loses more often
// than a slow one. Its verdict is the best of five tries, and may be better than the table's.
func racy(program string) string {
	switch program {
	case "killsig":
		return "sends the signal at once after start, whether or not the shell in the container has set its trap"
	case "pidfile":
		return "kills a process that ends at once"
	case "poststart":
		return "wants the process to have written a line before the poststart hook writes one, and lets both begin together"
	}
	return ""
}

func judge(program string, e ended) (verdict, string) {
	p := parseTAP(e.stdout)
	points := p.ok + p.failed + p.skipped
	switch {
	case e.hung:
		return "fail", fmt.Sprintf("no end after %s", programLimit)
	case e.code != 0:
		return "fail", brief(append(p.complaints, fmt.Sprintf("exit code %d", e.code), lastLines(e.stderr, 3)))
	case len(p.complaints) > 0:
		return "fail", brief(append(p.complaints, lastLines(e.stderr, 3)))
	case silent(program) && e.stdout == "":
		return "pass", ""
	case p.plan < 0:
		return "fail", "no TAP"
	case points == 0 && len(p.errors) > 0:
		return "warn", brief(p.errors)
	case points > 0 && p.ok == 0:
		return "skip", ""
	}
	return "pass", ""
}

// brief joins what a program complains of, without the endless part.
func brief(lines []string) string {
	const most = 6
	if more := len(lines) - most; more > 0 {
		lines = append(slices.Clone(lines[:most]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "; ")
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}

// row is a line of the table: what a program is known to do here, and why it does not pass with brig-oci.
type row struct {
	program, runc, crun, brig, reason string
}

func (r row) of(runtime string) verdict {
	return verdict(map[string]string{"runc": r.runc, "crun": r.crun, "brig-oci": r.brig}[runtime])
}

// below says whether brig-oci does worse than another runtime. A warning that the specification wants, or the suite makes up, is no worse
// than a pass: who reads TAP alone takes it for one.
func (r row) below(brig, other verdict) bool {
	return brig.rank() < other.rank() && !(brig == "warn" && strings.HasPrefix(r.reason, "suite: "))
}

// readTable reads runtime-tools.tsv: comments, and five columns a line.
func readTable() ([]row, error) {
	data, err := os.ReadFile(tableFile)
	if err != nil {
		return nil, err
	}
	var rows []row
	for n, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 5 {
			return nil, fmt.Errorf("%s:%d: %d columns, want program, runc, crun, brig-oci and reason", tableFile, n+1, len(f))
		}
		rows = append(rows, row{f[0], f[1], f[2], f[3], f[4]})
	}
	return rows, nil
}

// TestTable: each line has known verdicts, a reason where brig-oci does not pass, and no line lets brig-oci fail where another passes.
func TestTable(t *testing.T) {
	rows := must[[]row](t)(readTable())
	if len(rows) != 58 {
		t.Errorf("%d programs; runtime-tools v0.9.0 has 58", len(rows))
	}
	for i, r := range rows {
		for _, v := range []string{r.runc, r.crun, r.brig} {
			if !slices.Contains([]string{"pass", "warn", "skip", "fail"}, v) {
				t.Errorf("%s: verdict %q, want pass, warn, skip or fail", r.program, v)
			}
		}
		if ok := strings.HasPrefix(r.reason, "host: ") || strings.HasPrefix(r.reason, "suite: "); (r.brig == "pass") == ok || !ok && r.reason != "-" {
			t.Errorf("%s: brig-oci %s, with the reason %q", r.program, r.brig, r.reason)
		}
		if r.below(verdict(r.brig), verdict(r.runc)) || r.below(verdict(r.brig), verdict(r.crun)) {
			t.Errorf("%s: runc %s, crun %s, brig-oci %s", r.program, r.runc, r.crun, r.brig)
		}
		if i > 0 && rows[i-1].program >= r.program {
			t.Errorf("%s stands behind %s", r.program, rows[i-1].program)
		}
	}
}

// TestRuntimeTools runs every validation program with runc, crun and brig-oci. With brig-oci each must end as the table says, worse or
// better, but for what a machine may lack, and must pass where it passed with another.
func TestRuntimeTools(t *testing.T) {
	gated(t)
	installed(t, "runc crun", "runc", "crun")
	rows := must[[]row](t)(readTable())
	dir := must[string](t)(filepath.Abs(filepath.Join(cache, "runtimetools")))
	runtimes, rounds := []string{"runc", "crun", "brig-oci"}, 1
	if names := os.Getenv("BRIG_CONFORM_RUNTIMES"); names != "" {
		runtimes = strings.Fields(names)
	}
	if n := os.Getenv("BRIG_CONFORM_ROUNDS"); n != "" {
		rounds = must[int](t)(strconv.Atoi(n))
	}
	got := map[string]map[string][]verdict{} // program, runtime, round
	for _, r := range rows {
		got[r.program] = map[string][]verdict{}
		for _, name := range runtimes {
			t.Run(r.program+"/"+name, func(t *testing.T) {
				if noHugetlb != "" && strings.Contains(r.program, "hugetlb") {
					t.Skip(noHugetlb)
				}
				for range rounds {
					got[r.program][name] = append(got[r.program][name], best(t, dir, name, r))
				}
			})
		}
		for _, other := range []string{"runc", "crun"} {
			for round, v := range got[r.program]["brig-oci"] {
				if o := got[r.program][other]; len(o) > round && r.below(v, o[round]) {
					t.Errorf("%s: %s %s, brig-oci %s", r.program, other, o[round], v)
				}
			}
		}
	}
	t.Log("\n" + sheet(rows, runtimes, got))
}

// best runs one program with one runtime, once or as often as it may be tried, and holds its verdict against the table.
func best(t *testing.T, dir, name string, r row) verdict {
	t.Helper()
	why := racy(r.program)
	v, report := validate(t, dir, name, r.program)
	for try := 1; v != "pass" && why != "" && try < 5; try++ {
		if next, text := validate(t, dir, name, r.program); next.rank() > v.rank() {
			v, report = next, text
		}
	}
	mayPass := why != "" || strings.HasPrefix(r.reason, "host: ") // on a machine that has what another lacked
	switch {
	case v == r.of(name), mayPass && v.rank() > r.of(name).rank():
	case name == "brig-oci":
		t.Errorf("%s: %s, and %s says %s: %s", r.program, v, tableFile, r.brig, report)
	default:
		t.Logf("%s says %s", tableFile, r.of(name))
	}
	return v
}

// validate runs one program with one runtime once. The report is for whom the verdict surprises.
func validate(t *testing.T, dir, name, program string) (v verdict, report string) {
	t.Helper()
	path := name
	if name == "brig-oci" {
		path = brigOCI()
	}
	tmp := must[string](t)(os.MkdirTemp("", "conform"))
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil { // a user namespace's root must get at the bundle in it
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, program))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RUNTIME="+path, "TMPDIR="+tmp)
	e, err := confine(path, cmd, programLimit)
	if err != nil {
		t.Fatal(err)
	}
	v, why := judge(program, e)
	if len(e.left) > 0 {
		t.Logf("left behind: %s", brief(e.left))
	}
	t.Logf("%s after %.1f s: %s", v, e.took.Seconds(), why)
	if dir := os.Getenv("BRIG_CONFORM_OUTPUT"); dir != "" {
		path := filepath.Join(dir, program+"."+name)
		if err := os.WriteFile(path, []byte(e.stdout+"--- standard error\n"+e.stderr), 0o644); err != nil {
			t.Error(err)
		}
	}
	return v, fmt.Sprintf("%s\nstandard output:\n%sstandard error:\n%s", why, cut(e.stdout), cut(e.stderr))
}

// cut shortens the output of a program to what complains in it: runtimetest's is long.
func cut(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "ok ") {
			continue
		}
		if len(line) > 500 {
			line = line[:500] + "…\n"
		}
		if b.WriteString(line); b.Len() > 4000 {
			return b.String() + "… (BRIG_CONFORM_OUTPUT=FOLDER keeps all)\n"
		}
	}
	return b.String()
}

// sheet is one line a program, one column a runtime: the verdict, or those of all rounds where they differ.
func sheet(rows []row, runtimes []string, got map[string]map[string][]verdict) string {
	var b strings.Builder
	passed := map[string]int{}
	fmt.Fprintf(&b, "%-34s", "program")
	for _, name := range runtimes {
		fmt.Fprintf(&b, "%-16s", name)
	}
	for _, r := range rows {
		fmt.Fprintf(&b, "\n%-34s", r.program)
		for _, name := range runtimes {
			all := slices.Compact(slices.Clone(got[r.program][name]))
			words := make([]string, len(all))
			for i, v := range all {
				words[i] = string(v)
			}
			if slices.Equal(words, []string{"pass"}) {
				passed[name]++
			}
			fmt.Fprintf(&b, "%-16s", strings.Join(words, ","))
		}
	}
	fmt.Fprintf(&b, "\n%-34s", fmt.Sprintf("pass, of %d", len(rows)))
	for _, name := range runtimes {
		fmt.Fprintf(&b, "%-16d", passed[name])
	}
	return b.String()
}
