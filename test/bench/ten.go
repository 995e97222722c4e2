package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"brig/test/machine"
)

// counter stands before a registry and counts how often each blob is fetched.
type counter struct {
	address string
	server  *http.Server

	mu  sync.Mutex
	got map[string]int // by digest
}

// count starts a counter on a loopback port of its own.
func count(r *machine.Registry) (*counter, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: r.Address})
	c := &counter{address: l.Addr().String(), got: map[string]int{}}
	c.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if _, digest, ok := strings.Cut(q.URL.Path, "/blobs/"); ok && q.Method == http.MethodGet {
			c.mu.Lock()
			c.got[digest]++
			c.mu.Unlock()
		}
		proxy.ServeHTTP(w, q)
	})}
	go c.server.Serve(l)
	return c, nil
}

// take returns how many blobs were fetched since the last call, how many requests that took, and the most for one blob.
func (c *counter) take() (blobs, gets, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.got {
		blobs, gets, most = blobs+1, gets+n, max(most, n)
	}
	c.got = map[string]int{}
	return blobs, gets, most
}

// tenPulls has each engine pull ten images at once, a process each, of which three big layers are the same, and one alone.
func tenPulls(b *bench, c testcase) error {
	const images, rounds = 10, 3
	r, err := b.bigRegistry()
	if err != nil {
		return err
	}
	refs, err := b.withTops(r, images, 3)
	if err != nil {
		return err
	}
	proxy, err := count(r)
	if err != nil {
		return err
	}
	defer proxy.server.Close()
	for i := range refs {
		refs[i] = strings.Replace(refs[i], r.Address, proxy.address, 1)
	}
	fmt.Printf("\n%s (ms; load %s)\n  %-12s %9s %9s %7s   %s\n", c.name, load(), "", "one", "ten", "ratio", "GETs of blobs")
	type result struct {
		one, ten []time.Duration
		gets     string
		err      error
	}
	engines := b.pullers()
	all := make([]result, len(engines))
	for range min(rounds, b.rounds) {
		for _, n := range []int{1, images} {
			err := b.fresh(func(in *bench) error {
				for _, i := range rand.Perm(len(engines)) {
					res := &all[i]
					if res.err != nil || b.ctx.Err() != nil {
						continue
					}
					settle()
					proxy.take()
					took, err := atOnce(in.pullers()[i], refs[:n])
					blobs, gets, most := proxy.take()
					if res.err = err; err != nil {
						continue
					}
					if n == 1 {
						res.one = append(res.one, took)
						continue
					}
					res.ten = append(res.ten, took)
					res.gets = fmt.Sprintf("%d blobs, %d requests, %d for one blob at most", blobs, gets, most)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	for i, e := range engines {
		res := all[i]
		if res.err != nil {
			fmt.Printf("  %-12s %v\n", e.name, res.err)
			continue
		}
		one, ten := quantile(res.one, 0.5), quantile(res.ten, 0.5)
		fmt.Printf("  %-12s %9.0f %9.0f %7.2f   %s\n", e.name, ms(one), ms(ten), float64(ten)/float64(max(one, 1)), res.gets)
	}
	return nil
}

// atOnce pulls all of refs, a process each, and returns the time until the last is there.
func atOnce(e *engine, refs []string) (time.Duration, error) {
	errs := make([]error, len(refs))
	var wg sync.WaitGroup
	begin := time.Now()
	for i, ref := range refs {
		wg.Go(func() { _, errs[i] = spend(e.pull(ref)) })
	}
	wg.Wait()
	took := time.Since(begin)
	for _, err := range errs {
		if err != nil {
			return took, err
		}
	}
	return took, nil
}
