package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gvisor.dev/gvisor/pkg/control/client"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/state/statefile"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"

	"brig/internal/runtime/boxed/wire"
)

// chunk is how much of a checkpoint goes into one, in bytes.
const chunk = 64 << 10

// checkpoint has the Sentry write its state to out while everything inside stands still, which it does until in ends: who keeps the checkpoint may have
// killed the box by then. When who asked goes, both are closed, and what is inside runs on.
func (s *sandbox) checkpoint(in io.Reader, out io.Writer) error {
	if err := s.c.Sandbox.Pause(sandboxID); err != nil {
		return err
	}
	defer func() { _ = s.c.Sandbox.Resume(sandboxID) }() // or it has ended
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		defer r.Close() // the Sentry's next write fails
		b := make([]byte, chunk)
		for {
			n, err := r.Read(b)
			if n > 0 {
				if err := wire.WriteChunk(out, b[:n]); err != nil {
					sent <- err
					return
				}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				sent <- err
				return
			}
		}
	}()
	err = s.save(w)
	w.Close()
	if cut := <-sent; err == nil {
		err = cut
	}
	if err != nil {
		return fmt.Errorf("gVisor: %w", err)
	}
	if err := wire.WriteChunk(out, nil); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, in) // its end is what is waited for
	return nil
}

// save is what gVisor's Sandbox.Checkpoint does, which wants a file by its path.
func (s *sandbox) save(to *os.File) error {
	conn, err := client.ConnectTo(s.c.Sandbox.ControlSocketPath)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Call(boot.ContMgrCheckpoint, &control.SaveOpts{
		Metadata: statefile.CompressionLevelFlateBestSpeed.ToMetadata(), Resume: true, FilePayload: urpc.FilePayload{Files: []*os.File{to}},
	}, nil)
}

// restores reports whether the box was given a checkpoint to start from.
func restores() bool {
	_, err := os.Lstat(filepath.Join(wire.RestoreDir, wire.CheckpointName))
	return err == nil
}
