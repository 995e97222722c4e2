package engine

import (
	"cmp"
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
	r.StoreLimit = e.storeLimit
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
	if r.Op == "save" || r.Op == "export" || r.Op == "cp" || r.Op == "volume export" || r.Op == "receive" || r.Op == "trust" { // what others say there the reply says too, and the caller prints
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
	err = outcome(ctx, rep, cmd.Wait(), derr)
	if err == nil {
		e.noteTransfer(&r, &rep)
	}
	return rep, err
}

// outcome is what became of a worker: its reply, how it ended, and whether there was a reply.
func outcome(ctx context.Context, rep api.TransferReply, err, derr error) error {
	switch {
	case rep.Error != "" && rep.Kind == "":
		return errors.New(rep.Error)
	case rep.Error != "":
		return api.Errorf(rep.Kind, "%s", rep.Error)
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("brig-image: %w", err)
	case derr != nil:
		return fmt.Errorf("brig-image ended without an answer: %w", derr)
	}
	return nil
}

// lazyTransfer is a pull of which the worker may go on serving layers, where the reply has TransferReply.Lazy: they stay where it says until b ends, and for those who
// have them in use then, as long as they do. The worker ends by itself.
func (e *Engine) lazyTransfer(ctx context.Context, r api.TransferRequest, s api.Streams, b *bringing) (api.TransferReply, error) {
	var rep api.TransferReply
	r.Policy, r.StoreLimit = cmp.Or(r.Policy, e.policy), e.storeLimit
	data, err := json.Marshal(r)
	if err != nil {
		return rep, err
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return rep, err
	}
	defer pr.Close()
	hold, keep, err := os.Pipe()
	if err != nil {
		pw.Close()
		return rep, err
	}
	if b.hold != nil { // of a try before
		b.hold.Close()
	}
	b.hold, b.lowers = keep, nil
	cmd := exec.Command(sibling("brig-image"), "--root", e.root, "--state", e.state, "--reply-fd", "3", "--lease-fd", "4", "--hold-fd", "5", string(data))
	cmd.Stderr, cmd.ExtraFiles = s.Stderr, []*os.File{pw, b.lease.File(), hold}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	pw.Close()
	hold.Close()
	if err != nil {
		return rep, fmt.Errorf("starting brig-image, which moves images: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	derr := json.NewDecoder(pr).Decode(&rep)
	stop()
	if derr == nil && rep.Error == "" && len(rep.Lazy) > 0 {
		b.lowers = rep.Lazy
		e.noteTransfer(&r, &rep)
		go func() { _ = cmd.Wait() }()
		return rep, nil
	}
	if err = outcome(ctx, rep, cmd.Wait(), derr); err == nil {
		e.noteTransfer(&r, &rep)
	}
	return rep, err
}
