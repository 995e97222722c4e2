package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// errNotTerminal is docker's complaint, which scripts look for.
var errNotTerminal = errors.New("the input device is not a TTY")

// rawInput is standard input that is a terminal. The first Read puts it into raw mode: what is typed goes to the container as it is.
type rawInput struct {
	file *os.File
	from io.Reader

	mu    sync.Mutex
	state *term.State // before raw mode; nil: not in raw mode
	ended bool        // restore was called: never raw again
}

// Read reads what is typed.
func (r *rawInput) Read(p []byte) (int, error) {
	if err := r.enter(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

// enter puts the terminal into raw mode, once.
func (r *rawInput) enter() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.state != nil {
		return nil
	}
	state, err := term.MakeRaw(int(r.file.Fd()))
	if err != nil {
		return fmt.Errorf("terminal: raw mode: %w", err)
	}
	r.state = state
	return nil
}

// restore gives the terminal its old mode back. It may be called again, and from another goroutine.
func (r *rawInput) restore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.state == nil {
		return
	}
	_ = term.Restore(int(r.file.Fd()), r.state) // fails only when the terminal is gone
	r.state = nil
}

// parseKeys translates docker's notation of the detach keys: letters, and ctrl- with a-z, @, [, \, ], ^ or _, separated by commas.
// The empty string means the default, as nil does.
func parseKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for _, word := range strings.Split(s, ",") {
		rest, ctrl := strings.CutPrefix(word, "ctrl-")
		switch {
		case len(rest) != 1:
			return nil, badKeys(s, word)
		case !ctrl:
			keys = append(keys, rest[0])
		case rest[0] >= 'a' && rest[0] <= 'z':
			keys = append(keys, rest[0]-'a'+1)
		case rest[0] == '@' || rest[0] >= '[' && rest[0] <= '_':
			keys = append(keys, rest[0]-'@') // ASCII: control characters are those from @ on, less 64
		default:
			return nil, badKeys(s, word)
		}
	}
	return keys, nil
}

func badKeys(all, word string) error {
	return fmt.Errorf("invalid detach keys %q: unknown key %q: use letters and ctrl-<a-z, @, [, \\, ], ^ or _>, as in ctrl-p,ctrl-q", all, word)
}
