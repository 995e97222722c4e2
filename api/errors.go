package api

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is, whatever the protocol that reports it.
// It is itself an error, so that errors.Is(err, api.NotFound) asks for the kind of err.
type Kind string

// The kinds of errors. An error without a kind is an unexpected failure of the machine or of Brig.
const (
	NotFound        Kind = "not found"
	AlreadyExists   Kind = "already exists"
	Conflict        Kind = "conflict"         // the object is in a state that does not allow it
	InvalidArgument Kind = "invalid argument" // the caller's input is wrong
	Unsupported     Kind = "not supported"    // right input that this level, kernel or build cannot do
	Unauthorized    Kind = "unauthorized"     // credentials missing or refused
	Denied          Kind = "denied"           // a policy of this machine forbids it
	Unavailable     Kind = "unavailable"      // a peer or resource is out of reach; a retry may help
	Corrupt         Kind = "corrupt"          // bytes do not match their digest or format
	Exhausted       Kind = "exhausted"        // disk, addresses, memory or a limit used up
	// CommandNotFound and CommandNotRunnable are docker's exit codes 127 and 126.
	CommandNotFound    Kind = "command not found"
	CommandNotRunnable Kind = "command cannot be invoked"
)

func (k Kind) Error() string { return string(k) }

// Error is a failure with a kind. Msg names the thing, the cause and, where there is one, the next step.
type Error struct {
	Kind Kind
	Msg  string
	Err  error // the cause, may be nil
}

// Error returns Msg, then the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	if e.Msg == "" {
		return e.Err.Error()
	}
	return e.Msg + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the error's kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// Errorf makes an error of kind k; %w wraps as in [fmt.Errorf].
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// KindOf returns the kind of err, or "" where it has none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return ""
}
