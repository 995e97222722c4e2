package sentry

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"brig/api"
)

// TestPlatform: the first platform that works is taken, and known from then on; one that is asked for and does not work is refused.
func TestPlatform(t *testing.T) {
	dir := t.TempDir()
	l := Level{Path: filepath.Join(dir, "program"), State: filepath.Join(dir, "state")}
	program := func(text string) {
		if err := os.WriteFile(l.Path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	program("exit 1")
	if p, err := l.platform(); err != nil || p != Systrap { // perhaps it does in a box
		t.Errorf("where nothing works: %s, %v", p, err)
	}
	program("test $1 = probe && test $2 = ptrace")
	for range 2 {
		if p, err := l.platform(); err != nil || p != Ptrace {
			t.Errorf("%s, %v", p, err)
		}
		program("exit 1") // it is known
	}
	l.Platform = KVM
	for range 2 {
		if _, err := l.platform(); !errors.Is(err, api.Unsupported) {
			t.Errorf("kvm: %v", err)
		}
		program("exit 0") // it is known
	}
	if l.Platform = "nonsense"; l.Detail() != "" {
		t.Error(l.Detail())
	}
	if _, err := l.platform(); !errors.Is(err, api.InvalidArgument) {
		t.Errorf("nonsense: %v", err)
	}
}
