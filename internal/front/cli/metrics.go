package cli

import (
	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) metrics() *cobra.Command {
	var r api.MetricsRequest
	c := &cobra.Command{
		Use:   "metrics [OPTIONS]",
		Short: "Tell what containers and the store use, in the text format of Prometheus",
		Long: "Tell what containers and the store use, in the text format of Prometheus: once, as for the textfile collector of its node exporter, or as a server,\n" +
			"which runs until SIGINT or SIGTERM. Names are cAdvisor's where it has one.",
		Example: "  brig metrics >/var/lib/prometheus/node-exporter/brig.prom\n  brig metrics --addr 127.0.0.1:9323",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.engine().Metrics(cmd.Context(), r) },
	}
	parsed(c.Flags(), "addr", "", "host:port", "Answer there, at /metrics; port 0 is one that is free", assign(&r.Addr, parseAddr))
	return c
}
