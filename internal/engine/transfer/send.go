package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
	"brig/internal/image"
)

// machine is where an image is sent: ssh://[user@]host[:port][/path/to/brig].
type machine struct {
	user, host, port string
	brig             string // the program there; empty: found in its PATH
}

// parseMachine reads the address. What ssh could take for an option, or the shell there for something else than a path, is refused or quoted.
func parseMachine(s string) (machine, error) {
	bad := func(why string) (machine, error) {
		return machine{}, api.Errorf(api.InvalidArgument, "%q: %s; want ssh://[user@]host[:port][/path/to/brig]", clean(s), why)
	}
	u, err := url.Parse(s)
	if err != nil {
		var detail *url.Error
		if errors.As(err, &detail) {
			err = detail.Err
		}
		return bad(err.Error())
	}
	m := machine{user: u.User.Username(), host: u.Hostname(), port: u.Port(), brig: u.Path}
	_, password := u.User.Password()
	switch {
	case u.Scheme != "ssh":
		return bad("the scheme is not ssh")
	case password:
		return bad("a password does not belong in an address: ssh asks for it, or uses keys")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return bad("neither a query nor a fragment has a meaning here")
	case m.host == "":
		return bad("the host is missing")
	case strings.HasPrefix(m.host, "-") || strings.HasPrefix(m.user, "-") || strings.ContainsFunc(m.host+m.user+m.brig, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return bad("ssh could not tell it from an option")
	case strings.ContainsAny(m.user, "'\"\\`$"):
		return bad("this is no user's name")
	case strings.ContainsAny(m.host, "'\"\\`$;&|<>(){}*?!"): // ssh may hand it to a shell: %h of ProxyCommand (CVE-2023-51385)
		return bad("this is no host's name")
	}
	if m.port != "" {
		if n, err := strconv.ParseUint(m.port, 10, 16); err != nil || n == 0 {
			return bad("the port is not between 1 and 65535")
		}
	}
	if m.brig == "/" {
		m.brig = ""
	}
	return m, nil
}

// arguments are ssh's. The command is one word for ssh, and for the shell on the other side that reads it a quoted path and a verb.
func (m machine) arguments() []string {
	args := []string{"-T", "-o", "ConnectTimeout=30"}
	if m.user != "" {
		args = append(args, "-l", m.user)
	}
	if m.port != "" {
		args = append(args, "-p", m.port)
	}
	brig := "brig"
	if m.brig != "" {
		brig = "'" + strings.ReplaceAll(m.brig, "'", `'\''`) + "'"
	}
	return append(args, "--", m.host, brig+" receive")
}

// sendTo sends an image to the Brig of another machine.
func (t *Transfer) sendTo(ctx context.Context, r api.TransferRequest, p image.Platform) (api.TransferReply, error) {
	none := api.TransferReply{}
	m, err := parseMachine(r.To)
	if err != nil {
		return none, err
	}
	rec, err := t.find(r.Refs[0])
	if err != nil {
		return none, err
	}
	have, err := image.ParsePlatform(rec.Platform)
	if err != nil {
		return none, err
	}
	if p != (image.Platform{}) && !have.Matches(p) {
		return none, api.Errorf(api.NotFound, "the store has image %s for %s, not for %s: pull it with --platform first", r.Refs[0], have, p)
	}
	img, err := image.Resolve(ctx, &shelf{t}, rec.Target, have)
	if err != nil {
		return none, err
	}
	show := newOutDisplay(t.Stderr, r.Quiet, "Pushing", "Pushed", "Layer already exists")
	show.say("The push refers to machine [%s]", m.host)
	s := &sender{t: t, show: show, where: m.host, pieces: map[digest.Digest]imagespec.Descriptor{}, bars: map[digest.Digest]*bar{}}
	for _, d := range img.Documents {
		s.pieces[d.Descriptor.Digest] = d.Descriptor
	}
	for _, l := range img.Layers {
		s.pieces[l.Blob.Digest] = l.Blob
	}
	err = s.overSSH(ctx, m, offer{Name: rec.Name, Platform: have.String(), Target: bare(rec.Target)}, img)
	show.finish()
	if err != nil {
		return none, err
	}
	label := rec.ID
	if rec.Name != "" {
		label = familiar(rec.Name)
	}
	return api.TransferReply{Images: []api.Image{rec}, Sent: []api.Sent{sent(label, rec.Target)}}, nil
}

// sender is one image on its way to another machine.
type sender struct {
	t      *Transfer
	show   *display
	where  string
	pieces map[digest.Digest]imagespec.Descriptor // what the other side may ask for
	bars   map[digest.Digest]*bar                 // of layers

	mu    sync.Mutex
	began bool // the other side is a Brig
}

// overSSH runs the system's ssh, which asks for passwords and host keys on the terminal itself, and speaks with what it starts.
func (s *sender) overSSH(ctx context.Context, m machine, o offer, img *image.Image) error {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return api.Errorf(api.Unavailable, "push to %s: the program ssh is not installed: apt-get install openssh-client", m.host)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, program, m.arguments()...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	words := &remoteWords{}
	cmd.Stderr = words
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("push to %s: ssh: %w", m.host, err)
	}
	err = s.speak(ctx, newWire(out, in), o, img, cancel)
	in.Close()
	if err != nil {
		time.AfterFunc(2*time.Second, func() { cancel(err) }) // what ssh or the far side has to say comes by itself
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(out, 1<<20))
	werr := cmd.Wait()
	var told *toldError
	switch {
	case err == nil, errors.As(err, &told):
		return err
	case errors.Is(err, context.Canceled):
		return err
	case !s.begun() && errors.Is(err, errNoGreeting):
		return api.Errorf(api.Unavailable, "push to %s: %s", m.host, noBrig(werr, words.tail()))
	}
	if tail := words.tail(); tail != "" {
		return api.Errorf(api.KindOf(err), "push to %s: %w (%s)", m.host, err, tail)
	}
	return api.Errorf(api.KindOf(err), "push to %s: %w", m.host, err)
}

// noBrig says why the other side did not answer.
func noBrig(werr error, tail string) string {
	var exit *exec.ExitError
	code := 0
	if errors.As(werr, &exit) {
		code = exit.ExitCode()
	}
	if tail != "" {
		tail = " (" + tail + ")"
	}
	switch code {
	case 127:
		return "there is no brig in the PATH there: install it, or name it with ssh://host/path/to/brig" + tail
	case 126:
		return "brig cannot be executed there" + tail
	case 255:
		return "ssh could not connect" + tail
	}
	return "what answers there is no Brig that can receive images: it may be too old, or a login script may print something" + tail
}

var errNoGreeting = errors.New("no greeting")

// toldError is what the other side said is wrong.
type toldError struct{ error }

func (e *toldError) Unwrap() error { return e.error }

func (s *sender) begun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began
}

// speak is the sender's half of the protocol. When ctx ends ssh is ended, and with it all reading here.
func (s *sender) speak(ctx context.Context, c *wire, o offer, img *image.Image, cancel context.CancelCauseFunc) error {
	line := make([]byte, len(greeting))
	if n, err := io.ReadFull(c.r, line); err != nil || string(line) != greeting {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n > 0 {
			return fmt.Errorf("%w but %q", errNoGreeting, clean(string(line[:n])))
		}
		return errNoGreeting
	}
	s.mu.Lock()
	s.began = true
	s.mu.Unlock()
	serr := c.tell(frameOffer, o) // who is gone already may have said why
	seen := map[digest.Digest]bool{}
	for _, l := range img.Layers {
		if !seen[l.Blob.Digest] {
			seen[l.Blob.Digest] = true
			s.bars[l.Blob.Digest] = s.show.layer(l.Blob.Digest, l.Blob.Size)
		}
	}
	wants := make(chan want, maxWaiting)
	type ending struct {
		r   result
		err error
	}
	ended := make(chan ending, 1)
	silence := time.AfterFunc(wireSilence, func() { cancel(silent()) })
	defer silence.Stop()
	go func() {
		r, err := s.listen(c, wants, silence)
		close(wants)
		ended <- ending{r, err}
	}()
	asked := map[digest.Digest]bool{}
	for w := range wants {
		if serr != nil {
			continue
		}
		asked[w.Digest] = true
		serr = s.give(ctx, c, w)
	}
	end := <-ended
	err := s.judge(ctx, end.r, end.err, serr, o)
	for d, b := range s.bars {
		if !asked[d] || err != nil {
			b.end(true, err)
		}
	}
	return err
}

// judge makes one error of what the two directions saw: our own trouble explains theirs, theirs the broken stream.
func (s *sender) judge(ctx context.Context, r result, err, serr error, o offer) error {
	switch {
	case ctx.Err() != nil && err != nil:
		return context.Cause(ctx)
	case serr != nil && !errors.Is(serr, syscall.EPIPE):
		return serr
	case err != nil:
		return gone(err)
	case r.Msg != "":
		return &toldError{r.err("the Brig on " + s.where)}
	case r.Digest != o.Target.Digest:
		return api.Errorf(api.Corrupt, "the other machine says that it has %s, not %s", clean(r.Digest.String()), o.Target.Digest)
	}
	return nil
}

// listen reads what the other side asks for, until its result.
func (s *sender) listen(c *wire, wants chan<- want, silence *time.Timer) (result, error) {
	buf := make([]byte, maxData)
	for {
		kind, payload, err := c.receive(buf)
		if err != nil {
			return result{}, err
		}
		silence.Reset(wireSilence)
		switch kind {
		case frameAlive:
		case frameResult:
			var r result
			return r, fill(payload, &r)
		case frameWant:
			var w want
			if err := fill(payload, &w); err != nil {
				return result{}, err
			}
			select {
			case wants <- w:
			default:
				return result{}, api.Errorf(api.Corrupt, "more than %d pieces asked for at a time", maxWaiting)
			}
		default:
			return result{}, unexpected(kind)
		}
	}
}

// give sends a piece, from a byte on. Only pieces of the offered image are given, whatever else the store has.
func (s *sender) give(ctx context.Context, c *wire, w want) error {
	d, ours := s.pieces[w.Digest]
	if !ours || w.Offset < 0 || w.Offset > d.Size {
		return api.Errorf(api.Corrupt, "the other machine asks for %s from byte %d on, which is not of this image", clean(w.Digest.String()), w.Offset)
	}
	b := s.bars[w.Digest]
	err := s.stream(ctx, c, d, w.Offset, b)
	if err != nil && api.KindOf(err) != "" { // ours: the other side is told, and tells its user
		if terr := c.tell(frameRefuse, tellable(err)); terr != nil {
			return err
		}
	} else if err == nil {
		err = c.send(frameEnd, nil)
	}
	if b != nil {
		b.end(false, err)
	}
	return err
}

func (s *sender) stream(ctx context.Context, c *wire, d imagespec.Descriptor, offset int64, b *bar) error {
	r, err := s.t.stores.Content.Reader(d.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	in := reading{ctx, r}
	if _, err := io.CopyN(io.Discard, in, offset); err != nil {
		return err
	}
	if b != nil {
		b.add(int(offset))
	}
	buf := make([]byte, maxData)
	for left := d.Size - offset; ; {
		n, err := io.ReadFull(in, buf)
		if int64(n) > left {
			return api.Errorf(api.Corrupt, "blob %s: longer than its %d bytes", d.Digest, d.Size)
		}
		left -= int64(n)
		if n > 0 {
			if err := c.send(frameData, buf[:n]); err != nil {
				return err
			}
			if b != nil {
				b.add(n)
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if left > 0 {
				return api.Errorf(api.Corrupt, "blob %s: %d bytes short of %d", d.Digest, left, d.Size)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// remoteWords keeps the last of what ssh and the other side write for people, without controls: it explains a connection that breaks off.
// All else that is wrong there comes in the protocol.
type remoteWords struct {
	mu   sync.Mutex
	line []byte
	last []string
}

const maxWords = 5 // lines that are kept

// Write implements io.Writer.
func (w *remoteWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			w.line = append(w.line, rest[:min(len(rest), 4096-min(len(w.line), 4096))]...)
			break
		}
		w.line = append(w.line, rest[:min(i, 4096)]...)
		w.flush()
		rest = rest[i+1:]
	}
	return len(p), nil
}

func (w *remoteWords) flush() {
	text := clean(string(w.line))
	w.line = w.line[:0]
	if text == "" {
		return
	}
	if w.last = append(w.last, text); len(w.last) > maxWords {
		w.last = w.last[1:]
	}
}

// tail is what was said last.
func (w *remoteWords) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
	return strings.Join(w.last, "; ")
}
