package main

import (
	"context"
	"net"
	"os"
	"time"

	"brig/api"
	"brig/internal/engine"
	"brig/internal/front/metrics"
	"brig/internal/front/registry"
)

// serveMetrics serves what there is to measure, or tells it once.
func serveMetrics(ctx context.Context, root, state string, r api.MetricsRequest) error {
	e := metrics.New(engine.New(root, state, r.Version), r.Version)
	if r.Addr == "" {
		return e.Write(ctx, os.Stdout)
	}
	l, err := (&net.ListenConfig{KeepAlive: time.Minute}).Listen(ctx, "tcp", r.Addr)
	if err != nil {
		return api.Errorf(api.Unavailable, "metrics: --addr %s: %w", r.Addr, err)
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		logf("warning: whoever reaches %s reads the names and images of all containers", l.Addr())
	}
	logf("metrics of %s at http://%s/metrics", root, l.Addr())
	return registry.Serve(ctx, l, e, nil, logf)
}
