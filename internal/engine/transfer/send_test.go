package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
	"brig/internal/image/imagetest"
)

// TestMain lets the test binary stand for the brig receive of another machine.
func TestMain(m *testing.M) {
	if n, err := strconv.ParseInt(os.Getenv("BRIG_TEST_CUT"), 10, 64); err == nil { // lets so many bytes pass
		io.CopyN(os.Stdout, os.Stdin, n)
		os.Exit(0)
	}
	if root := os.Getenv("BRIG_TEST_KILL"); root != "" {
		killReceiver(root)
		os.Exit(1)
	}
	if root := os.Getenv("BRIG_TEST_RECEIVE"); root != "" {
		if _, err := New(root).Do(context.Background(), api.TransferRequest{Op: "receive"}); err != nil {
			fmt.Fprintln(os.Stderr, "brig:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killReceiver is a receiver that is killed when it has 2 MB of a layer.
func killReceiver(root string) {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "BRIG_TEST_KILL=", "BRIG_TEST_RECEIVE="+root)
	cmd.Stdout = os.Stdout
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		panic(err)
	}
	go io.CopyN(in, os.Stdin, 3_000_000)
	for range 2000 {
		parts, _ := filepath.Glob(filepath.Join(root, "receive/*"))
		if len(parts) == 1 {
			if info, err := os.Stat(parts[0]); err == nil && info.Size() > 2_000_000 {
				break
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	cmd.Process.Kill()
	cmd.Wait()
}

// far is a machine that the fake ssh reaches: another root. Its way is a shell script that gets the command as ssh would hand it over; pipe
// is put before the receiver's input.
func (w *world) far(pipe string) (f *world, args func() string) {
	w.Helper()
	f = w.fresh()
	dir := w.TempDir()
	self, err := os.Executable()
	if err != nil {
		w.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' \"$@\" >%s/args\n%s BRIG_TEST_RECEIVE=%s exec %s\n", dir, pipe, f.root, self)
	if strings.HasSuffix(pipe, "|") {
		script = strings.Replace(script, " exec ", " ", 1)
	}
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		w.Fatal(err)
	}
	w.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return f, func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "args"))
		return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", " ")
	}
}

func (w *world) send(image string) (api.TransferReply, string, error) {
	w.Helper()
	reply, _, stderr, err := w.do(api.TransferRequest{Op: "push", Refs: []string{image}, To: "ssh://joe@far:2222/opt"})
	return reply, stderr, err
}

// TestSend: an image arrives whole and under its name, with the same digests; what is there is not sent again.
func TestSend(t *testing.T) {
	w, debian, other := pulled(t)
	f, args := w.far("")
	reply, stderr, err := w.send(debian.Name)
	if err != nil {
		t.Fatal(err)
	}
	short := debian.Layers[0].Blob.Digest.Encoded()[:12]
	if !strings.Contains(stderr, "The push refers to machine [far]\n") || !strings.Contains(stderr, short+": Pushed\n") || reply.Sent[0].Digest != debian.Target.Digest.String() {
		t.Errorf("%q %+v", stderr, reply)
	}
	if got := args(); got != "-T -o ConnectTimeout=30 -l joe -p 2222 -- far '/opt' receive" {
		t.Errorf("ssh %s", got)
	}
	rec, ok := f.tr.present(debian.Name, image.Platform{})
	if !ok || rec.ID != debian.ID || rec.Target.Digest != debian.Target.Digest || f.file(rec.Layers[1].DiffID, "a") != "1" {
		t.Errorf("%v %+v", ok, rec)
	}
	if _, stderr, err := w.send(debian.Name); err != nil || !strings.Contains(stderr, short+": Layer already exists\n") {
		t.Errorf("again: %v %q", err, stderr)
	}
	// By its ID it has no name there.
	if _, _, err := w.send(other.ID[7:19]); err != nil {
		t.Fatal(err)
	}
	if rec, err := f.tr.stores.Meta.Image(other.ID); err != nil || rec.Name != "" || f.file(other.Layers[1].DiffID, "a") != "2" {
		t.Errorf("%+v %v", rec, err)
	}
}

// TestSendIndex: the index that the name points to comes along.
func TestSendIndex(t *testing.T) {
	w := newWorld(t)
	p := w.reg.OCI(imagetest.Gzip, imagetest.Layer("a", "1"))
	d := w.reg.PutImage(p, "")
	d.Platform = &imagespec.Platform{OS: "linux", Architecture: "amd64"}
	inner := w.reg.Index("", d)
	inner.Platform = d.Platform
	index := w.reg.Index("1", inner)
	reply, _, _, err := w.do(api.TransferRequest{Op: "pull", Refs: []string{w.host + "/x:1"}, Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := w.far("")
	if _, _, err := w.send(reply.Images[0].Name); err != nil {
		t.Fatal(err)
	}
	if rec, ok := f.tr.present(reply.Images[0].Name, image.Platform{}); !ok || rec.Target.Digest != index.Digest || !f.tr.stores.Content.Has(inner.Digest) {
		t.Errorf("%+v", rec)
	}
}

// TestSendBreaks: the connection is cut in the middle, again and again; each try goes on where the last one stopped, nothing is seen until
// all is there, and at last nothing is left of the tries.
func TestSendBreaks(t *testing.T) {
	const size = 4 << 20
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(nil, layers(2, size)...), "1")
	reply, err := w.pull("x:1")
	if err != nil {
		t.Fatal(err)
	}
	name := reply.Images[0].Name
	f, _ := w.far("BRIG_TEST_CUT=3000000 " + os.Args[0] + " |")
	tries := 0
	for ; tries < 10; tries++ {
		if _, _, err = w.send(name); err == nil {
			break
		}
		if !errors.Is(err, api.Unavailable) || !strings.Contains(err.Error(), "broke off") {
			t.Fatal(err)
		}
		if _, err := f.tr.stores.Meta.Image(name); !errors.Is(err, api.NotFound) {
			t.Fatalf("seen before it is whole: %v", err)
		}
	}
	if err != nil || tries != 2 {
		t.Errorf("%d tries of 3 MB each broke before 8 MB were there: %v", tries, err)
	}
	if _, ok := f.tr.present(name, image.Platform{}); !ok {
		t.Error("not there")
	}
	if names, _ := os.ReadDir(filepath.Join(f.root, "receive")); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
}

// TestSendKilled: the receiver is killed in the middle. The next one goes on with what it had, and sweeps up.
func TestSendKilled(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(nil, layers(1, 4<<20)...), "1")
	reply, err := w.pull("x:1")
	if err != nil {
		t.Fatal(err)
	}
	img := reply.Images[0]
	f, _ := w.far("")
	t.Setenv("BRIG_TEST_KILL", f.root)
	if _, _, err := w.send(img.Name); !errors.Is(err, api.Unavailable) {
		t.Fatal(err)
	}
	os.Unsetenv("BRIG_TEST_KILL")
	part := filepath.Join(f.root, "receive", "sha256-"+img.Layers[0].Blob.Digest.Encoded())
	if info, err := os.Stat(part); err != nil || info.Size() < 2_000_000 {
		t.Fatal(info, err)
	}
	if _, _, err := w.send(img.Name); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.tr.present(img.Name, image.Platform{}); !ok {
		t.Error("not there")
	}
	if names, _ := os.ReadDir(filepath.Join(f.root, "receive")); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
	// What nobody came back for goes after a week; what is young or in use stays.
	for name, age := range map[string]time.Duration{"sha256-old": 8 * 24 * time.Hour, "sha256-young": time.Hour} {
		path := filepath.Join(f.root, "receive", name)
		os.WriteFile(path, nil, 0o600)
		os.Chtimes(path, time.Time{}, time.Now().Add(-age))
	}
	f.tr.sweepParts(time.Now())
	if names, _ := os.ReadDir(filepath.Join(f.root, "receive")); len(names) != 1 || names[0].Name() != "sha256-young" {
		t.Errorf("after the sweep: %v", names)
	}
}

// TestSendSpoiltPart: what an earlier try left has been spoilt: it is fetched again.
func TestSendSpoiltPart(t *testing.T) {
	w := newWorld(t)
	w.reg.PutImage(w.reg.OCI(nil, layers(1, 2<<20)...), "1")
	reply, err := w.pull("x:1")
	if err != nil {
		t.Fatal(err)
	}
	img := reply.Images[0]
	f, _ := w.far("")
	part := filepath.Join(f.root, "receive", "sha256-"+img.Layers[0].Blob.Digest.Encoded())
	os.MkdirAll(filepath.Dir(part), 0o700)
	if err := os.WriteFile(part, noise(1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.send(img.Name); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.tr.present(img.Name, image.Platform{}); !ok {
		t.Error("not there")
	}
}

// TestSendFails: what goes wrong is told here, in words that say where.
func TestSendFails(t *testing.T) {
	w, debian, _ := pulled(t)
	for script, want := range map[string]struct {
		kind api.Kind
		word string
	}{
		"echo 'sh: 1: brig: not found' >&2; exit 127;":                    {api.Unavailable, "no brig in the PATH there"},
		"echo 'ssh: connect to host far port 22: refused' >&2; exit 255;": {api.Unavailable, "ssh could not connect (ssh: connect to host far port 22: refused)"},
		"echo Welcome to far; echo; exit 0;":                              {api.Unavailable, "no Brig that can receive"},
		"printf 'brig-receive/1\\n'; echo 'killed \033[31m' >&2; exit 1;": {api.Unavailable, "broke off"},
		"printf 'brig-receive/1\\nW\\377\\377\\377\\377'; exit 1;":        {api.Corrupt, "frame"},
	} {
		w.far(script)
		_, _, err := w.send(debian.Name)
		if api.KindOf(err) != want.kind || !strings.Contains(err.Error(), want.word) || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "push to far") {
			t.Errorf("%s: %v (%s)", script, err, api.KindOf(err))
		}
	}
	// The other side's own trouble.
	f, _ := w.far("")
	os.MkdirAll(filepath.Dir(f.root), 0o700)
	os.WriteFile(f.root, nil, 0o600)
	if _, _, err := w.send(debian.Name); err == nil || !strings.Contains(err.Error(), "the Brig on far: ") {
		t.Errorf("%v", err)
	}
	// Ours: a layer that the disk has spoilt.
	f, _ = w.far("")
	w.spoil(debian.Layers[0].Blob.Digest)
	if _, _, err := w.send(debian.Name); !errors.Is(err, api.Corrupt) || !strings.Contains(err.Error(), debian.Layers[0].Blob.Digest.String()) {
		t.Errorf("%v", err)
	}
	f.empty()
	for _, to := range []string{"ssh://", "ssh://-oProxyCommand=x", "ssh://joe:pw@far", "ssh://far:0", "ssh://far:99999", "ssh://far?x", "ssh://far#x", "http://far", "ssh://-l@far", "ssh://far/a%0ab", "ssh://a b", "ssh://%24(id)@far"} {
		if _, _, _, err := w.do(api.TransferRequest{Op: "push", Refs: []string{debian.Name}, To: to}); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%s: %v", to, err)
		}
	}
	m, err := parseMachine("ssh://far/opt/it's/brig")
	if got := m.arguments(); err != nil || got[len(got)-1] != `'/opt/it'\''s/brig' receive` {
		t.Errorf("%v %q", err, got)
	}
}

// TestSendCancelled: the sender that is interrupted ends its ssh at once.
func TestSendCancelled(t *testing.T) {
	w, debian, _ := pulled(t)
	w.far("exec sleep 60;")
	c, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := w.tr.Do(c, api.TransferRequest{Op: "push", Refs: []string{debian.Name}, To: "ssh://far"}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

// TestSendGuards: a receiver that asks for what is not of the image gets nothing, whatever the store has.
func TestSendGuards(t *testing.T) {
	w, debian, other := pulled(t)
	img, err := image.Resolve(ctx, &shelf{w.tr}, debian.Target, image.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]want{
		"another image": {Digest: other.Layers[1].Blob.Digest}, "a negative offset": {Digest: debian.Layers[0].Blob.Digest, Offset: -1},
		"beyond the end": {Digest: debian.Layers[0].Blob.Digest, Offset: 1 << 40}, "no digest": {Digest: "../../etc/passwd"},
	} {
		toSender, fromTest := io.Pipe()
		fromSender, toTest := io.Pipe()
		s := &sender{t: w.tr, show: newDisplay(io.Discard, true, true), where: "far", pieces: map[digest.Digest]imagespec.Descriptor{}, bars: map[digest.Digest]*bar{}}
		for _, l := range img.Layers {
			s.pieces[l.Blob.Digest] = l.Blob
		}
		var got bytes.Buffer
		go func() {
			io.WriteString(fromTest, greeting)
			c := newWire(strings.NewReader(""), fromTest)
			c.tell(frameWant, ask)
			c.tell(frameResult, result{Digest: debian.Target.Digest})
			fromTest.Close()
		}()
		done := make(chan struct{})
		go func() { io.Copy(&got, fromSender); close(done) }()
		err := s.speak(ctx, newWire(toSender, toTest), offer{Target: debian.Target}, img, func(error) {})
		toTest.Close()
		<-done
		c := newWire(&got, io.Discard)
		for buf := make([]byte, maxData); ; {
			kind, _, rerr := c.receive(buf)
			if rerr != nil {
				break
			}
			if kind == frameData {
				t.Errorf("%s: data was sent", name)
			}
		}
		if !errors.Is(err, api.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMachine: what ssh, or a shell that ssh calls, could take for something else is refused.
func TestMachine(t *testing.T) {
	for _, s := range []string{"ssh://-oProxyCommand=x", "ssh://$(id)", "ssh://a;id", "ssh://`id`", "ssh://a'b", "ssh://a|b", "ssh://-l@a", "ssh://u$x@a", "ssh://a:0", "ssh://a:65536", "ssh://u:p@a", "http://a", "ssh:///x", "ssh://a?b"} {
		if m, err := parseMachine(s); !errors.Is(err, api.InvalidArgument) {
			t.Errorf("%s: %+v %v", s, m, err)
		}
	}
	for s, want := range map[string]machine{"ssh://a": {host: "a"}, "ssh://u@a.b:22/x y": {}, "ssh://[fe80::1%25eth0]:22": {host: "fe80::1%eth0", port: "22"}, "ssh://u@a_b/opt/it's": {user: "u", host: "a_b", brig: "/opt/it's"}} {
		if m, err := parseMachine(s); m != want || (err == nil) == (want == machine{}) {
			t.Errorf("%s: %+v %v", s, m, err)
		}
	}
}

// session records what the sender of an image says, for receivers to be fed with.
func session(t testing.TB, layers ...[]byte) (stream []byte, reg *imagetest.Store, target imagespec.Descriptor) {
	reg = imagetest.New()
	p := reg.OCI(imagetest.Gzip, layers...)
	target = reg.PutImage(p, "1")
	var out bytes.Buffer
	c := newWire(strings.NewReader(""), &out)
	c.tell(frameOffer, offer{Name: "docker.io/library/x:1", Platform: "linux/amd64", Target: target})
	for _, d := range append([]imagespec.Descriptor{target, p.Manifest.Config}, p.Manifest.Layers...) {
		c.send(frameData, reg.Blobs[d.Digest])
		c.send(frameEnd, nil)
	}
	return out.Bytes(), reg, target
}

// asked counts the wants of a receiver.
type asked struct {
	mu   sync.Mutex
	out  bytes.Buffer
	more chan struct{} // one for each want, as far as there is room
}

func (a *asked) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(p) > 0 && p[0] == frameWant {
		a.more <- struct{}{}
	}
	return a.out.Write(p)
}

// feed gives a receiver a stream, the answer to each want when it is asked for.
func feed(root string, stream []byte, policy ...string) (api.TransferReply, []byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return api.TransferReply{}, nil, err
	}
	defer r.Close()
	out, done := &asked{more: make(chan struct{}, 10_000)}, make(chan struct{})
	go func() {
		defer w.Close()
		for rest, answering := stream, false; len(rest) > 0; {
			n := len(rest)
			if n >= 5 {
				n = min(n, 5+int(binary.BigEndian.Uint32(rest[1:5])))
			}
			if kind := rest[0]; stream[0] == frameOffer && !answering && (kind == frameData || kind == frameEnd || kind == frameRefuse) {
				select {
				case <-out.more:
					answering = true
				case <-done:
					return
				}
			}
			if rest[0] == frameEnd || rest[0] == frameRefuse {
				answering = false
			}
			w.Write(rest[:n])
			rest = rest[n:]
		}
	}()
	tr := New(root)
	tr.Stdin, tr.Stdout, tr.Stderr = r, out, io.Discard
	c, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	reply, err := tr.Do(c, api.TransferRequest{Op: "receive", Policy: strings.Join(policy, "")})
	close(done)
	return reply, out.out.Bytes(), err
}

// TestReceiveRefuses: a sender that lies. Nothing of it becomes visible.
func TestReceiveRefuses(t *testing.T) {
	w := newWorld(t)
	frame := func(kind byte, v any) []byte {
		var b bytes.Buffer
		if raw, ok := v.([]byte); ok {
			newWire(nil, &b).send(kind, raw)
		} else {
			newWire(nil, &b).tell(kind, v)
		}
		return b.Bytes()
	}
	good := offer{Name: "docker.io/library/x:1", Platform: "linux/amd64", Target: imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}}
	bend := func(f func(*offer)) offer { o := good; f(&o); return o }
	for name, c := range map[string]struct {
		stream []byte
		kind   api.Kind
	}{
		"nothing":             {nil, api.Unavailable},
		"half a frame":        {[]byte{frameOffer, 0, 0, 0, 9, '{'}, api.Unavailable},
		"a long frame":        {[]byte{frameOffer, 0, 1, 0, 1}, api.Corrupt},
		"another frame":       {frame(frameData, []byte("x")), api.Corrupt},
		"no JSON":             {frame(frameOffer, []byte("x")), api.Corrupt},
		"a short name":        {frame(frameOffer, bend(func(o *offer) { o.Name = "x" })), api.InvalidArgument},
		"a path for a digest": {frame(frameOffer, bend(func(o *offer) { o.Target.Digest = "sha256:../../etc" })), api.InvalidArgument},
		"no platform":         {frame(frameOffer, bend(func(o *offer) { o.Platform = "" })), api.InvalidArgument},
		"a huge manifest":     {frame(frameOffer, bend(func(o *offer) { o.Target.Size = 1 << 40 })), api.Exhausted},
		"a negative size":     {frame(frameOffer, bend(func(o *offer) { o.Target.Size = -1 })), api.Corrupt},
		"more than announced": {append(frame(frameOffer, good), frame(frameData, []byte("xx"))...), api.Corrupt},
		"less than announced": {append(frame(frameOffer, good), frame(frameEnd, []byte{})...), api.Corrupt},
		"other bytes":         {append(append(frame(frameOffer, good), frame(frameData, []byte("y"))...), frame(frameEnd, []byte{})...), api.Corrupt},
		"a refusal":           {append(frame(frameOffer, good), frame(frameRefuse, fault{api.NotFound, "no \x1b[31m"})...), api.NotFound},
		"a frame of ours":     {append(frame(frameOffer, good), frame(frameWant, want{})...), api.Corrupt},
	} {
		f := w.fresh()
		_, out, err := feed(f.root, c.stream)
		if api.KindOf(err) != c.kind || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v (%s)", name, err, api.KindOf(err))
		}
		if !bytes.HasPrefix(out, []byte(greeting)) || !bytes.Contains(out, []byte(`"msg"`)) {
			t.Errorf("%s: the sender was told %q", name, out)
		}
		f.empty()
	}
}

// FuzzReceive feeds a receiver whatever a hostile sender might say: it neither panics nor hangs, and only an image whose digests are right
// becomes visible.
func FuzzReceive(f *testing.F) {
	stream, _, target := session(f, imagetest.Layer("a", "b"))
	f.Add(stream)
	f.Add(stream[:len(stream)-40])
	b, _ := json.Marshal(offer{Platform: "linux/amd64", Target: target})
	f.Add(append([]byte{frameOffer, 0, 0, 0, byte(len(b))}, b...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		root := filepath.Join(t.TempDir(), "root")
		reply, _, err := feed(root, stream)
		records, rerr := New(root).stores.Meta.Images()
		if rerr != nil || (err == nil) != (len(records) == 1) {
			t.Fatalf("%v: %+v, %v", err, records, rerr)
		}
		if err == nil {
			if _, ok := New(root).present(records[0].Name, image.Platform{}); records[0].Name != "" && !ok || reply.Images[0].ID != records[0].ID {
				t.Fatalf("%+v", records)
			}
		}
	})
}

// FuzzSend feeds a sender whatever a hostile receiver might say.
func FuzzSend(f *testing.F) {
	w := &world{reg: imagetest.New(), root: filepath.Join(f.TempDir(), "root")}
	stream, _, target := session(f, imagetest.Layer("a", "b"))
	if _, _, err := feed(w.root, stream); err != nil {
		f.Fatal(err)
	}
	tr := New(w.root)
	img, err := image.Resolve(ctx, &shelf{tr}, target, image.Platform{})
	if err != nil {
		f.Fatal(err)
	}
	var good bytes.Buffer
	c := newWire(nil, &good)
	good.WriteString(greeting)
	c.tell(frameWant, want{Digest: img.Layers[0].Blob.Digest, Offset: 3})
	c.send(frameAlive, nil)
	c.tell(frameResult, result{Digest: target.Digest})
	f.Add(good.Bytes())
	f.Add([]byte(greeting))
	f.Fuzz(func(t *testing.T, said []byte) {
		s := &sender{t: tr, show: newDisplay(io.Discard, true, true), where: "far", pieces: map[digest.Digest]imagespec.Descriptor{}, bars: map[digest.Digest]*bar{}}
		for _, l := range img.Layers {
			s.pieces[l.Blob.Digest] = l.Blob
		}
		c, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		_ = s.speak(c, newWire(bytes.NewReader(said), io.Discard), offer{Target: target}, img, cancel)
	})
}
