package main

import (
	"runtime/debug"
	"strings"
	"testing"
)

// TestGoDebug wants the settings without which the Sentry is killed when it has run for a minute.
func TestGoDebug(t *testing.T) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("this program says nothing of its build")
	}
	for _, s := range info.Settings {
		if s.Key == "DefaultGODEBUG" && strings.Contains(s.Value, "updatemaxprocs=0") && strings.Contains(s.Value, "containermaxprocs=0") {
			return
		}
	}
	t.Errorf("settings %+v", info.Settings)
}
