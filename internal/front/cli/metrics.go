package cli

import (
	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) metrics() *cobra.Command {
	c := &cobra.Command{
		Use:   "metrics [COMMAND]",
		Short: "Tell what containers and the store use, in the text format of Prometheus",
		Long: "Tell what containers and the store use, in the text format of Prometheus: once, as for the textfile collector of its node exporter, or as a server.\n" +
			"Names are cAdvisor's where it has one.",
		Example: "  brig metrics >/var/lib/prometheus/node-exporter/brig.prom\n  brig metrics serve --addr 127.0.0.1:9323",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.engine().Metrics(cmd.Context(), api.MetricsRequest{})
		},
	}
	r := api.MetricsRequest{Addr: "127.0.0.1:9323"} // the port that Docker has for it
	serve := &cobra.Command{
		Use:     "serve [OPTIONS]",
		Short:   "Answer at /metrics until SIGINT or SIGTERM",
		Example: "  brig metrics serve",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.engine().Metrics(cmd.Context(), r) },
	}
	parsed(serve.Flags(), "addr", "", "host:port", "Listen there; port 0 is one that is free (default 127.0.0.1:9323)", assign(&r.Addr, parseAddr))
	c.AddCommand(serve)
	return c
}
