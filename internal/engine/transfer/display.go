package transfer

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// display tells the user what happens: bars on a terminal, a line for each layer that is done elsewhere, nothing when quiet.
type display struct {
	mu    sync.Mutex
	out   io.Writer
	bars  *mpb.Progress // nil: lines
	quiet bool
	lines bool // a line a layer, where there are no bars
	doing string
	done  string
	had   string
}

// newDisplay begins a display of a pull, or of a load, which has no line a layer and other words.
func newDisplay(out io.Writer, quiet, pull bool) *display {
	d := &display{out: out, quiet: quiet, lines: pull, doing: "Pulling", done: "Pull complete", had: "Already exists"}
	if !pull {
		d.doing, d.done = "Loading", "Loaded"
	}
	if f, ok := out.(*os.File); ok && !quiet && term.IsTerminal(int(f.Fd())) {
		d.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(60))
	}
	return d
}

// newOutDisplay begins a display of a push or a copy.
func newOutDisplay(out io.Writer, quiet bool, doing, done, had string) *display {
	d := newDisplay(out, quiet, true)
	d.doing, d.done, d.had = doing, done, had
	return d
}

// say writes a line above the bars.
func (d *display) say(format string, args ...any) {
	if d.quiet {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var w = d.out
	if d.bars != nil {
		w = d.bars
	}
	fmt.Fprintf(w, format+"\n", args...)
}

// finish waits until the bars have been drawn for the last time. Then say writes plainly.
func (d *display) finish() {
	if d.bars != nil {
		d.bars.Wait()
		d.mu.Lock()
		d.bars = nil
		d.mu.Unlock()
	}
}

// bar is one layer's progress.
type bar struct {
	d     *display
	short string
	size  int64
	b     *mpb.Bar
	mu    sync.Mutex
	word  string
}

func (d *display) layer(digest digest.Digest, size int64) *bar {
	b := &bar{d: d, short: short(digest), size: size, word: "Waiting"}
	if d.bars == nil {
		return b
	}
	// Begun without a total, so that the last byte does not end the bar: unpacking and syncing come after it.
	b.b = d.bars.New(0, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.BarFillerClearOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return b.short + ": " + b.state() + " " })),
		mpb.AppendDecorators(decor.OnComplete(decor.CountersKiloByte("% .1f / % .1f"), "")))
	b.b.SetTotal(size, false)
	return b
}

func (b *bar) state() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.word
}

// add counts bytes that came in.
func (b *bar) add(n int) {
	if b.b == nil {
		return
	}
	b.mu.Lock()
	b.word = b.d.doing
	b.mu.Unlock()
	b.b.IncrBy(n)
}

// again begins anew.
func (b *bar) again() {
	if b.b != nil {
		b.b.SetCurrent(0)
	}
}

// end is called once: the layer is there now, or was there before, or an error came.
func (b *bar) end(existed bool, err error) {
	word := b.d.done
	if existed {
		word = b.d.had
	}
	b.finish(word, err)
}

// finish is end with a word of its own.
func (b *bar) finish(word string, err error) {
	switch {
	case b.b != nil && err != nil:
		b.b.Abort(false)
	case b.b != nil:
		b.mu.Lock()
		b.word = word
		b.mu.Unlock()
		b.b.SetTotal(b.size, true)
	case err == nil && b.d.lines:
		b.d.say("%s: %s", b.short, word)
	}
}

// short is a digest as docker shows it: twelve digits.
func short(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(12, len(hex))]
}

// warn writes a warning, also when quiet.
func (d *display) warn(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var w = d.out
	if d.bars != nil {
		w = d.bars
	}
	fmt.Fprintf(w, "WARNING: "+format+"\n", args...)
}
