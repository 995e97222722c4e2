package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"brig/api"
	"brig/internal/store/garbage"
)

// Transfer has brig-image move images, or speak with a registry. Registry, TLS and compression code live in that program, so that a run of
// an image that is there does not pay for them.
func (e *Engine) Transfer(ctx context.Context, r api.TransferRequest, s api.Streams) (api.TransferReply, error) {
	return e.transfer(ctx, r, s, nil)
}

// transfer is Transfer; what comes in stays under the lease, where there is one, for as long as the caller holds it.
func (e *Engine) transfer(ctx context.Context, r api.TransferRequest, s api.Streams, lease *garbage.Lease) (api.TransferReply, error) {
	return e.transferHolding(ctx, r, s, lease, nil)
}

// transferHolding is transfer by a worker that has held open too: locks, which are then held for as long as it works, whatever becomes of this process.
func (e *Engine) transferHolding(ctx context.Context, r api.TransferRequest, s api.Streams, lease *garbage.Lease, held []*os.File) (api.TransferReply, error) {
	var rep api.TransferReply
	if r.Policy == "" {
		r.Policy = e.policy
	}
	data, err := json.Marshal(r)
	if err != nil {
		return rep, err
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return rep, err
	}
	defer pr.Close()
	args := []string{"--root", e.root, "--state", e.state, "--reply-fd", "3"}
	files := []*os.File{pw}
	if lease != nil {
		args, files = append(args, "--lease-fd", "4"), append(files, lease.File())
	}
	cmd := exec.CommandContext(ctx, sibling("brig-image"), append(args, string(data))...)
	cmd.Stdin, cmd.Stderr = s.Stdin, s.Stderr
	if r.Op == "save" || r.Op == "export" || r.Op == "cp" || r.Op == "receive" || r.Op == "trust" { // what others say there the reply says too, and the caller prints
		cmd.Stdout = s.Stdout
	}
	cmd.ExtraFiles = append(files, held...)
	// A worker that is told to stop takes back what it began.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err = cmd.Start()
	pw.Close()
	if err != nil {
		return rep, fmt.Errorf("starting brig-image, which moves images: %w", err)
	}
	derr := json.NewDecoder(pr).Decode(&rep)
	err = cmd.Wait()
	if rep.Error != "" {
		if rep.Kind == "" {
			return rep, errors.New(rep.Error)
		}
		return rep, api.Errorf(rep.Kind, "%s", rep.Error)
	}
	if ctx.Err() != nil {
		return rep, ctx.Err()
	}
	if err != nil {
		return rep, fmt.Errorf("brig-image: %w", err)
	}
	if derr != nil {
		return rep, fmt.Errorf("brig-image ended without an answer: %w", derr)
	}
	return rep, nil
}
