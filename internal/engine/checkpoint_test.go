package engine

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"brig/api"
)

// disorderly is a container whose state cannot be written so many times.
type disorderly struct {
	left, asked int
	err         error
}

func (d *disorderly) Checkpoint(_ context.Context, w io.Writer, saved func() error) error {
	d.asked++
	if _, err := io.WriteString(w, "the state that it has, and more"[:21+d.left]); err != nil {
		return err
	}
	if d.left > 0 {
		d.left--
		return d.err
	}
	return saved()
}

// TestSave: a container that cannot write its state down is asked again, and nothing of what it wrote before is kept; what is not its own fault, and what comes after its state, is asked once.
func TestSave(t *testing.T) {
	disorder := api.Errorf(api.Unavailable, "disorder")
	full := api.Errorf(api.Conflict, "no space left on device")
	for _, test := range []struct {
		name      string
		ct        disorderly
		saved     error
		asked     int
		want, all string
	}{
		{"twice", disorderly{left: 2, err: disorder}, nil, 3, "", "the state that it has"},
		{"for ever", disorderly{left: 9, err: disorder}, nil, saveTries, "disorder", ""},
		{"a full disk", disorderly{left: 1, err: full}, nil, 1, "no space left on device", ""},
		{"after its state", disorderly{}, disorder, 1, "disorder", "the state that it has"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "state"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got := ""
			if err := save(context.Background(), &test.ct, f, func() error { return test.saved }); err != nil {
				got = err.Error()
			}
			if got != test.want || test.ct.asked != test.asked {
				t.Errorf("%q after %d times, want %q after %d", got, test.ct.asked, test.want, test.asked)
			}
			if all, err := os.ReadFile(f.Name()); err != nil || test.all != "" && string(all) != test.all {
				t.Errorf("%q is kept, %v, want %q", all, err, test.all)
			}
		})
	}
}
