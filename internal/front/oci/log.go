package oci

import (
	"fmt"
	"os"
	"time"
)

// openLog opens --log. Without the flag what is not an error goes to stderr.
func (g *globals) openLog(stderr *os.File) error {
	if g.log == "" {
		g.logFile = stderr
		return nil
	}
	f, err := os.OpenFile(g.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("flag --log: %w", err)
	}
	g.logFile = f
	return nil
}

// logError appends a line to --log. Engines show its last error to their user. stderr has the error already.
func (g *globals) logError(err error) {
	if g.log == "" {
		return
	}
	if g.logFile == nil && g.openLog(nil) != nil {
		return
	}
	g.logLine("error", err.Error())
}

func (g *globals) warn(err error) { g.logLine("warning", err.Error()) }

// debugf tells what is done, with --debug.
func (g *globals) debugf(format string, args ...any) {
	if g.debug {
		g.logLine("debug", fmt.Sprintf(format, args...))
	}
}

// logLine writes a line as runc does, which engines parse.
func (g *globals) logLine(level, msg string) {
	now := time.Now().UTC().Format(time.RFC3339)
	if g.logFormat == "json" {
		fmt.Fprintf(g.logFile, "{\"level\":%s,\"msg\":%s,\"time\":%s}\n", jsonString(level), jsonString(msg), jsonString(now))
		return
	}
	fmt.Fprintf(g.logFile, "time=%q level=%s msg=%q\n", now, level, msg)
}
