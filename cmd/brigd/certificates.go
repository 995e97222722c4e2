package main

import (
	"crypto/tls"
	"os"
	"slices"
	"sync"
	"time"
)

// certificates reads a certificate again when its files have changed: certificates end while servers run.
type certificates struct {
	load  func() (*tls.Certificate, error)
	files []string

	mu   sync.Mutex // guards what follows
	last *tls.Certificate
	at   []time.Time
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := make([]time.Time, len(c.files))
	for i, path := range c.files {
		if fi, err := os.Stat(path); err == nil {
			now[i] = fi.ModTime()
		}
	}
	if c.last != nil && slices.Equal(now, c.at) {
		return c.last, nil
	}
	next, err := c.load()
	if err != nil && c.last != nil {
		logf("registry: the certificate has changed and cannot be read, the old one stays: %v", err)
		c.at = now
		return c.last, nil
	}
	if err == nil {
		c.last, c.at = next, now
	}
	return next, err
}
