package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"

	"brig/test/machine"
)

// patience bounds every wait of a story's command.
func patience() time.Duration { return machine.Patience(10 * time.Second) }

var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"exit":       cmdExit,
	"eventually": cmdEventually,
	"pty":        cmdPty,
	"fetch":      cmdFetch,
	"registry":   cmdRegistry,
	"push":       cmdPush,
	"udpecho":    cmdUDPEcho,
	"udpask":     cmdUDPAsk,
}

// program prepares a command for a terminal in the story's folder and environment, ended after a minute.
func program(ts *testscript.TestScript, argv []string) (*exec.Cmd, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), machine.Patience(time.Minute))
	env := environ(ts)
	path := argv[0]
	if !strings.Contains(path, "/") {
		for _, dir := range strings.Split(ts.Getenv("PATH"), string(os.PathListSeparator)) {
			if info, err := os.Stat(dir + "/" + path); err == nil && info.Mode()&0o111 != 0 {
				path = dir + "/" + path
				break
			}
		}
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Env, cmd.Dir, cmd.WaitDelay = env, ts.MkAbs("."), time.Second
	return cmd, cancel
}

// environ is what a story's programs see; testscript does not hand its own list out.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, key := range []string{"PATH", "HOME", "WORK", "TMPDIR", "BRIG_ROOT", "BRIG_STATE", "BRIG_ISOLATION", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "IMAGE", "DBUS_SESSION_BUS_ADDRESS", "REGISTRY", "FROM_HOST"} {
		if v := ts.Getenv(key); v != "" {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// code is the exit code of a command that ran; -1 if it did not.
func code(err error) int {
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ee):
		return ee.ExitCode()
	}
	return -1
}

func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if err := ts.Exec(args[1], args[2:]...); code(err) != want {
		ts.Fatalf("exit code %d, want %d (%v)", code(err), want, err)
	}
}

func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN PROGRAM ARGS…")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(patience()); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		err = ts.Exec(args[1], args[2:]...)
		if pattern.MatchString(ts.ReadFile("stdout") + ts.ReadFile("stderr")) {
			return
		}
	}
	ts.Fatalf("no match for %q in %s; last: %v", args[0], patience(), err)
}

func cmdFetch(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] fetch URL")
	}
	limit := patience() / 2
	if neg {
		limit = time.Second
	}
	client := &http.Client{Timeout: machine.Patience(time.Second), Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var resp *http.Response
		if resp, last = client.Get(args[0]); last != nil {
			continue
		}
		_, last = io.Copy(ts.Stdout(), resp.Body)
		resp.Body.Close()
		if neg {
			ts.Fatalf("%s answered with %s", args[0], resp.Status)
		}
		ts.Check(last)
		return
	}
	if !neg {
		ts.Fatalf("%s: %v", args[0], last)
	}
}

func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: registry")
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(server.Close)
	ts.Setenv("REGISTRY", strings.TrimPrefix(server.URL, "http://"))
}

func cmdPush(ts *testscript.TestScript, neg bool, args []string) {
	zstd := len(args) == 3 && args[2] == "zstd"
	if neg || len(args) != 2 && !zstd {
		ts.Fatalf("usage: push ARCHIVE NAME [zstd]")
	}
	image, err := tarball.ImageFromPath(ts.MkAbs(args[0]), nil)
	ts.Check(err)
	if zstd {
		image = withZstd(ts, image)
	}
	ref, err := name.ParseReference(ts.Getenv("REGISTRY")+"/"+args[1], name.Insecure)
	ts.Check(err)
	ts.Check(remote.Write(ref, image))
}

// withZstd is an image with its layers compressed by zstd.
func withZstd(ts *testscript.TestScript, image v1.Image) v1.Image {
	layers, err := image.Layers()
	ts.Check(err)
	config, err := image.ConfigFile()
	ts.Check(err)
	config.RootFS.DiffIDs, config.History = nil, nil
	image, err = mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1), config)
	ts.Check(err)
	for _, l := range layers {
		packed, err := tarball.LayerFromOpener(l.Uncompressed, tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
		ts.Check(err)
		image, err = mutate.AppendLayers(image, packed)
		ts.Check(err)
	}
	return image
}

// cmdPty plays a terminal session. A line of the script is one of
//
//	expect TEXT    waits until TEXT stands in the output behind what was matched before
//	send TEXT      types TEXT
//
// with Go's escapes in TEXT: \r is Enter, \x10\x11 ctrl-p ctrl-q. The whole output becomes the standard output.
func cmdPty(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: pty SCRIPT CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	cmd, cancel := program(ts, args[2:])
	defer cancel()
	term, err := machine.StartOnTerminal(cmd)
	ts.Check(err)
	defer term.Close()
	steps := ts.ReadFile(args[0])
	for line := range strings.Lines(steps) {
		verb, text, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
		if strings.TrimSpace(line) == "" {
			continue
		}
		text, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`)
		ts.Check(err)
		switch verb {
		case "expect":
			if err := term.Expect(text, patience()); err != nil {
				ts.Fatalf("%v", err)
			}
		case "send":
			ts.Check(term.Type(text))
		default:
			ts.Fatalf("%s: %q is neither expect nor send", args[0], verb)
		}
	}
	err = cmd.Wait()
	fmt.Fprint(ts.Stdout(), term.Close())
	if code(err) != want {
		ts.Fatalf("exit code %d, want %d (%v)\n%s", code(err), want, err, term.Close())
	}
}
