package guest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/test/guest/wire"
	"brig/test/machine"
)

const (
	insideEnv   = "BRIG_TEST_GUEST"    // set where a test runs in the guest
	programsEnv = "BRIG_TEST_PROGRAMS" // folder with a package's testdata/*/main.go, built: the guest has no compiler
	binEnv      = "BRIG_TEST_BIN"      // folder with Brig's programs, as for the tests on the host
	sourceDir   = "/src"               // the tree in the guest
	programsDir = "/src/.programs"
)

// TestOptions are of Test.
type TestOptions struct {
	Run     string        // tests to run, as go test's -run; "": all
	Timeout time.Duration // of a package, or of a part of one
	Parts   int           // clones that share out a package's tests, where these know how (test/machine/part.go); 0: one
}

// atOnce is how many parts run at a time: a guest has two processors of its own.
const atOnce = 2

// Test runs the tests of packages, given as for go list, each package in a clone of its own and in its folder of the source tree. bin/
// comes along. It writes what go test -v would, then what was skipped and why, and returns 1 if a test has failed.
func Test(ctx context.Context, out io.Writer, o TestOptions, pkgs ...string) (int, error) {
	root, err := top()
	if err != nil {
		return 1, err
	}
	dirs, err := packageDirs(ctx, root, pkgs)
	if err != nil {
		return 1, err
	}
	var skipped, failed []string
	for _, dir := range dirs {
		begun := time.Now()
		watches, err := testPackage(ctx, root, dir, o, out)
		took := time.Since(begun).Seconds()
		switch {
		case err == nil:
			fmt.Fprintf(out, "ok  \t%s\t%.1fs in the guest\n", dir, took)
		case ctx.Err() != nil || errors.Is(err, ErrMissing):
			return 1, err
		default:
			fmt.Fprintf(out, "FAIL\t%s\t%.1fs in the guest: %v\n", dir, took, err)
			failed = append(failed, dir)
		}
		for _, w := range watches {
			skipped, failed = append(skipped, w.skipped...), append(failed, w.failed...)
		}
	}
	for _, s := range skipped {
		fmt.Fprintln(out, "skipped in the guest:", s)
	}
	if len(failed) > 0 {
		return 1, fmt.Errorf("failed in the guest:\n  %s", strings.Join(failed, "\n  "))
	}
	return 0, nil
}

// packageDirs resolves patterns to the folders of packages that have tests, relative to root.
func packageDirs(ctx context.Context, root string, patterns []string) ([]string, error) {
	args := []string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}"}
	list, err := output(ctx, root, "go", append(args, patterns...)...)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for dir := range strings.Lines(list) {
		rel, err := filepath.Rel(root, strings.TrimSpace(dir))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, rel)
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("no package with tests in %s", strings.Join(patterns, " "))
	}
	return dirs, nil
}

// testPackage builds the tests of one package and runs them in a fresh clone, or several: what one says is then told when it has ended.
func testPackage(ctx context.Context, root, dir string, o TestOptions, out io.Writer) ([]*watcher, error) {
	tmp, err := os.MkdirTemp("", "guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	binary := filepath.Join(tmp, "test")
	if _, err := output(ctx, root, "go", "test", "-c", "-o", binary, "./"+dir); err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Minute
	}
	args := []string{"-test.v", "-test.timeout=" + o.Timeout.String()}
	if o.Run != "" {
		args = append(args, "-test.run="+o.Run)
	}
	run := func(w *watcher, env ...string) error {
		ctx, cancel := context.WithTimeout(ctx, o.Timeout+time.Minute)
		defer cancel()
		code, err := runBinary(ctx, root, dir, binary, args, w, env...)
		w.flush()
		if err == nil && code != 0 {
			err = fmt.Errorf("exit status %d", code)
		}
		return err
	}
	if o.Parts <= 1 {
		w := &watcher{out: out, pkg: dir}
		return []*watcher{w}, run(w)
	}
	watches, errs := make([]*watcher, o.Parts), make([]error, o.Parts)
	turns := make(chan struct{}, atOnce)
	var telling sync.Mutex
	var all sync.WaitGroup
	for i := range o.Parts {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			var said bytes.Buffer
			watches[i] = &watcher{out: &said, pkg: dir}
			begun, part := time.Now(), fmt.Sprintf("%d/%d", i+1, o.Parts)
			if errs[i] = run(watches[i], machine.PartEnv+"="+part); errs[i] != nil {
				errs[i] = fmt.Errorf("part %s: %w", part, errs[i])
			}
			telling.Lock()
			defer telling.Unlock()
			fmt.Fprintf(out, "%s# part %s of %s: %.1fs in the guest\n", said.Bytes(), part, dir, time.Since(begun).Seconds())
		})
	}
	all.Wait()
	return watches, errors.Join(errs...)
}

// tcgFactor is how many times slower a guest is that QEMU translates, on a machine that has more to do.
const tcgFactor = "10"

// runBinary runs a test binary of the package in folder dir, in a fresh clone that has the source tree and bin/.
func runBinary(ctx context.Context, root, dir, binary string, args []string, out io.Writer, env ...string) (int, error) {
	programs, err := buildPrograms(ctx, root, dir)
	if err != nil {
		return -1, err
	}
	defer os.RemoveAll(programs)
	g, err := StartWith(ctx, func(w *tar.Writer) error {
		if err := addTree(w, root, sourceDir); err != nil {
			return err
		}
		if err := addTree(w, programs, programsDir); err != nil {
			return err
		}
		return addFile(w, binary, filepath.Join(sourceDir, dir, "guest.test"))
	})
	if err != nil {
		return -1, err
	}
	defer g.Close()
	env = append(env, insideEnv+"=1", programsEnv+"="+programsDir, binEnv+"="+sourceDir+"/bin")
	if g.vm.slow {
		env = append(env, machine.SlowEnv+"="+tcgFactor)
	}
	return g.Client.Run(ctx, wire.Command{
		Args: append([]string{"./guest.test"}, args...), Dir: filepath.Join(sourceDir, dir), Env: env,
	}, wire.IO{Out: out, Err: out})
}

// buildPrograms builds what a package's tests would build themselves, into a folder that it returns.
func buildPrograms(ctx context.Context, root, dir string) (string, error) {
	into, err := os.MkdirTemp("", "guest")
	if err != nil {
		return "", err
	}
	mains, err := filepath.Glob(filepath.Join(root, dir, "testdata/*/main.go"))
	for _, m := range mains {
		if err == nil {
			_, err = output(ctx, filepath.Dir(m), "go", "build", "-trimpath", "-o", filepath.Join(into, filepath.Base(filepath.Dir(m))), ".")
		}
	}
	if err != nil {
		os.RemoveAll(into)
	}
	return into, err
}

// addTree adds what is below a folder of the host, without names that begin with a dot.
func addTree(w *tar.Writer, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != from && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return addFile(w, path, filepath.Join(to, rel))
	})
}

func addFile(w *tar.Writer, from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: strings.TrimPrefix(to, "/"), Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime()}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// watcher passes the output of tests on, and notes which were skipped, and why, and which failed.
type watcher struct {
	out             io.Writer
	pkg             string
	line            []byte
	said            string // the last line that a test logged
	skipped, failed []string
}

func (w *watcher) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		w.line = append(w.line, line...)
		if bytes.HasSuffix(line, []byte("\n")) {
			w.flush()
		}
	}
	return len(b), nil
}

func (w *watcher) flush() {
	if len(w.line) == 0 {
		return
	}
	w.out.Write(w.line)
	text := strings.TrimSpace(string(w.line))
	w.line = w.line[:0]
	switch {
	case strings.HasPrefix(text, "--- SKIP: "):
		w.skipped = append(w.skipped, w.pkg+" "+name(text)+": "+w.said)
	case strings.HasPrefix(text, "--- FAIL: "):
		w.failed = append(w.failed, w.pkg+" "+name(text))
	case strings.HasPrefix(text, "=== "):
		w.said = ""
	default:
		w.said = text
	}
}

// name is the test's, of a line "--- WORD: NAME (TIME)".
func name(line string) string {
	if f := strings.Fields(line); len(f) > 2 {
		return f[2]
	}
	return line
}

// Inside reports whether this is the guest.
func Inside() bool { return os.Getenv(insideEnv) != "" }

// Run runs the tests of packages in the guest, as subtests of t. It skips where there is no guest.
func Run(t *testing.T, pkgs ...string) {
	t.Helper()
	root, err := top()
	if err != nil {
		t.Fatal(err)
	}
	need(t)
	dirs, err := packageDirs(t.Context(), root, pkgs)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		t.Run(dir, func(t *testing.T) {
			if _, err := testPackage(t.Context(), root, dir, TestOptions{}, t.Output()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Rerun runs the calling test in the guest. On the host it does that, fails or skips as the test did there, and returns false: return. In
// the guest it returns true: go on. It skips where there is no guest.
//
//	func TestCheckpoint(t *testing.T) {
//		if !guest.Rerun(t) {
//			return
//		}
//		…
//	}
func Rerun(t *testing.T) bool {
	t.Helper()
	if Inside() {
		return true
	}
	need(t)
	root, err := top()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Rel(root, here)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	watch := &watcher{out: t.Output(), pkg: dir}
	code, err := runBinary(t.Context(), root, dir, binary, []string{"-test.v", "-test.run=" + strings.Join(parts, "/")}, watch)
	watch.flush()
	switch {
	case err != nil:
		t.Fatal(err)
	case code != 0:
		t.Errorf("failed in the guest: exit status %d", code)
	case len(watch.skipped) > 0:
		t.Skip("skipped in the guest: ", strings.Join(watch.skipped, "; "))
	}
	return false
}

// need skips where there is no guest.
func need(t *testing.T) {
	t.Helper()
	if _, err := Find(); errors.Is(err, ErrMissing) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
}
