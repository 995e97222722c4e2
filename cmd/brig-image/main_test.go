package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"brig/api"
	"brig/internal/image/imagetest"
)

// TestMain lets the test binary stand for brig-image.
func TestMain(m *testing.M) {
	if os.Getenv("BRIG_IMAGE_TEST") == "1" {
		main()
	}
	os.Exit(m.Run())
}

// start runs brig-image with a reply on descriptor 3.
func start(t *testing.T, root string, args ...string) (cmd *exec.Cmd, reply *os.File, stdout, stderr *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	cmd = exec.Command(self, append([]string{"--root", root, "--state", root + "-state", "--reply-fd", "3"}, args...)...)
	cmd.Env = append(os.Environ(), "BRIG_IMAGE_TEST=1", "DOCKER_CONFIG="+t.TempDir(), "HOME="+t.TempDir())
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = stdout, stderr, []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return cmd, r, stdout, stderr
}

// finish waits and decodes the reply.
func finish(t *testing.T, cmd *exec.Cmd, r *os.File) (reply api.TransferReply, code int) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &reply); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
	}
	return reply, cmd.ProcessState.ExitCode()
}

func TestPullAndFail(t *testing.T) {
	s := imagetest.New()
	d := s.PutImage(s.OCI(imagetest.Gzip, imagetest.Layer("a", "b")), "1")
	server := httptest.NewServer(s)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	root := filepath.Join(t.TempDir(), "root")

	cmd, r, stdout, stderr := start(t, root, `{"op":"pull","refs":["`+host+`/x:1"]}`)
	reply, code := finish(t, cmd, r)
	if code != 0 || !reply.Fresh || reply.Images[0].Target.Digest != d.Digest || reply.Error != "" || stdout.String() != host+"/x:1\n" || !strings.Contains(stderr.String(), "Status: ") {
		t.Errorf("%d %+v %q %q", code, reply, stdout, stderr)
	}
	for _, c := range []struct {
		args []string
		kind api.Kind
		code int
	}{
		{[]string{`{"op":"pull","refs":["` + host + `/x:2"]}`}, api.NotFound, 1},
		{[]string{`{"op":"pull","refs":["UPPER"]}`}, api.InvalidArgument, 125},
		{[]string{`{`}, api.InvalidArgument, 125},
		{nil, api.InvalidArgument, 125},
		{[]string{"{}", "{}"}, api.InvalidArgument, 125},
		{[]string{"--nosuch", "{}"}, "", 125},
	} {
		cmd, r, stdout, stderr := start(t, root, c.args...)
		reply, code := finish(t, cmd, r)
		if code != c.code || reply.Kind != c.kind || (c.kind != "") != (reply.Error != "") || stdout.Len() > 0 || reply.Error != "" && strings.Contains(stderr.String(), reply.Error) {
			t.Errorf("%q: %d %+v %q %q", c.args, code, reply, stdout, stderr)
		}
	}
}

// TestNoReply: without a reader of the reply it is the worker that tells the user.
func TestNoReply(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "--root", t.TempDir(), `{"op":"pull","refs":["UPPER"]}`)
	cmd.Env = append(os.Environ(), "BRIG_IMAGE_TEST=1")
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 125 || !strings.HasPrefix(string(out), "brig: ") || !strings.Contains(string(out), "must be lowercase") {
		t.Errorf("code %d, %s", code, out)
	}
}

// TestSignal: a pull that hangs ends on SIGINT and SIGTERM, replies so, and leaves nothing.
func TestSignal(t *testing.T) {
	s := imagetest.New()
	p := s.OCI(nil, imagetest.Layer("a", "b"))
	s.PutImage(p, "1")
	asked, release := make(chan struct{}, 10), make(chan struct{})
	s.Hook = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, p.Manifest.Layers[0].Digest.String()) {
			asked <- struct{}{}
			<-release
		}
		return false
	}
	server := httptest.NewServer(s)
	defer server.Close()
	defer close(release)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		root := filepath.Join(t.TempDir(), "root")
		cmd, r, _, stderr := start(t, root, `{"op":"pull","refs":["`+strings.TrimPrefix(server.URL, "http://")+`/x:1"]}`)
		<-asked
		begin := time.Now()
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		reply, code := finish(t, cmd, r)
		if code != 1 || !strings.Contains(reply.Error, "interrupted") || strings.Contains(stderr.String(), "interrupted") || time.Since(begin) > 5*time.Second {
			t.Errorf("%s: %d %+v %q after %s", sig, code, reply, stderr, time.Since(begin))
		}
		for _, dir := range []string{"content/blobs/sha256", "content/ingest", "snapshot/layer"} {
			if names, _ := os.ReadDir(filepath.Join(root, dir)); len(names) > 0 {
				t.Errorf("%s: left in %s: %v", sig, dir, names)
			}
		}
	}
}

// TestSignalWhileLoading: a pipe that nobody writes to does not hold the program.
func TestSignalWhileLoading(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	self, _ := os.Executable()
	cmd := exec.Command(self, "--root", filepath.Join(t.TempDir(), "root"), `{"op":"load"}`)
	cmd.Env, cmd.Stdin = append(os.Environ(), "BRIG_IMAGE_TEST=1"), r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		cmd.Process.Kill()
		t.Error("the program goes on")
	}
}
