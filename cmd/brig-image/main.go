// Command brig-image moves images for brig: pull, push, load, save, copy, import, export and commit, and both ends of a push over ssh; and checks those that are in the store. It is a program of its own because a registry client costs
// milliseconds at start, which a run of an image that is there shall not pay.
//
//	brig-image [--root DIR] [--state DIR] [--reply-fd N] [--lease-fd N] [--hold-fd N] REQUEST
//
// REQUEST is an api.TransferRequest as JSON. Words for the user go to standard output and error. With --reply-fd an api.TransferReply
// is written to that file descriptor as JSON, also when the transfer failed; then the exit status is 1, or 125 for a wrong request.
// SIGINT and SIGTERM cancel the transfer, which takes back what it did.
//
// Where the reply says that layers are read as they are needed, the program goes on after it, without the caller's streams: it serves them until nobody uses them any
// more. They stay in sight until --hold-fd ends, which may give the folder of the container's sandbox before.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"brig/api"
	"brig/internal/engine/transfer"
)

func main() {
	debug.SetGCPercent(40) // a pull's memory is a fifth less than with the usual 100, for no processor time that could be measured
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("brig-image", flag.ContinueOnError)
	root := flags.String("root", "/var/lib/brig", "durable `folder`")
	state := flags.String("state", "/run/brig", "boot-lived `folder`")
	replyFD := flags.Int("reply-fd", -1, "write the reply to this file `descriptor`")
	holdFD := flags.Int("hold-fd", -1, "what is read as it is needed stays in sight until this file `descriptor` ends")
	leaseFD := flags.Int("lease-fd", -1, "what comes in is under the lease of this file `descriptor`")
	if err := flags.Parse(args); err != nil {
		return 125
	}
	var lease *os.File
	if *leaseFD >= 0 {
		syscall.CloseOnExec(*leaseFD)
		lease = os.NewFile(uintptr(*leaseFD), "lease")
		defer lease.Close()
	}
	var out io.WriteCloser
	if *replyFD >= 0 {
		syscall.CloseOnExec(*replyFD)
		out = os.NewFile(uintptr(*replyFD), "reply")
	}
	t := transfer.New(*root).In(*state).Under(lease)
	reply, err := do(ctx, t, flags.Args())
	code := 0
	if err != nil {
		code = 1
		if errors.Is(err, api.InvalidArgument) {
			code = 125
		}
		reply = api.TransferReply{Error: err.Error(), Kind: api.KindOf(err)}
		if out == nil { // else whoever reads the reply tells the user
			fmt.Fprintln(os.Stderr, "brig:", err)
		}
	}
	if out != nil {
		if err := json.NewEncoder(out).Encode(reply); err != nil {
			fmt.Fprintln(os.Stderr, "brig: reply:", err)
			code = 1
		}
		out.Close()
	}
	if len(reply.Lazy) > 0 { // also where nobody is there any more who wanted it: then hold has ended
		hold := os.NewFile(uintptr(*holdFD), "hold")
		if lease != nil {
			lease.Close() // it is the caller's, who may be gone before
		}
		leave()
		t.Serve(context.WithoutCancel(ctx), hold)
	}
	return code
}

// leave lets go of the caller's standard streams and folder.
func leave() {
	_ = os.Chdir("/")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	for fd := range 3 {
		_ = syscall.Dup3(int(null.Fd()), fd, 0)
	}
}

func do(ctx context.Context, t *transfer.Transfer, args []string) (api.TransferReply, error) {
	if len(args) != 1 {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "brig-image: want one argument, the request as JSON: brig starts it, users need not")
	}
	var request api.TransferRequest
	if err := json.Unmarshal([]byte(args[0]), &request); err != nil {
		return api.TransferReply{}, api.Errorf(api.InvalidArgument, "brig-image: request: %w", err)
	}
	reply, err := t.Do(ctx, request)
	if errors.Is(err, context.Canceled) {
		err = interrupted(request.Op)
	}
	return reply, err
}

// interrupted says what became of a transfer that a signal ended.
func interrupted(op string) error {
	switch op {
	case "push", "copy":
		return fmt.Errorf("the %s was interrupted: there is no new image; layers that had arrived need not be sent again", op)
	case "receive":
		return errors.New("the transfer was interrupted: what has arrived is kept for another try")
	}
	return errors.New("the transfer was interrupted: there is no new image; what arrived of large layers is kept for a day, for another try")
}
