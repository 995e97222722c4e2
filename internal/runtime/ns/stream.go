package ns

import (
	"context"
	"io"
	"os"

	"brig/api"
	"brig/internal/runtime"
	"brig/internal/runtime/shim"
)

// filtered drops the streams that the client did not ask for.
type filtered struct {
	*shim.Client
	want runtime.Streams
}

var _ runtime.Stream = filtered{}

func (f filtered) Wait(ctx context.Context, stdout, stderr io.Writer) (api.Exit, error) {
	if !f.want.Stdout {
		stdout = nil
	}
	if !f.want.Stderr {
		stderr = nil
	}
	return f.Client.Wait(ctx, stdout, stderr)
}

func copyInput(st runtime.Stream, r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && st.Input(buf[:n]) != nil {
			return
		}
		if err != nil {
			st.CloseInput()
			return
		}
	}
}

// writer keeps a nil file a nil interface.
func writer(f *os.File) io.Writer {
	if f == nil {
		return nil
	}
	return f
}
