package cli

import (
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) registry() *cobra.Command {
	c := &cobra.Command{
		Use:     "registry COMMAND",
		Short:   "Serve images to other machines and tools",
		Example: "  brig registry serve",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.registryServe())
	return c
}

func (a *app) registryServe() *cobra.Command {
	var r api.RegistryRequest
	c := &cobra.Command{
		Use:   "serve [OPTIONS]",
		Short: "Serve the images of this root as a registry, and take in what is pushed",
		Long: "Serve the images of this root as a registry, and take in what is pushed.\n" +
			"It runs until SIGINT or SIGTERM; containers do not depend on it.",
		Example: "  brig registry serve\n" +
			"  brig registry serve --addr :5000 --tls-cert cert.pem --tls-key key.pem --htpasswd users\n" +
			"  brig registry serve --addr :5000 --read-only --mirror docker.io --mirror quay.io=https://cache.example.org",
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (r.TLSCert == "") != (r.TLSKey == "") {
				return api.Errorf(api.InvalidArgument, "--tls-cert and --tls-key belong together: give both or none")
			}
			return a.engine().ServeRegistry(cmd.Context(), r)
		},
	}
	f := c.Flags()
	r.Addr = "127.0.0.1:5000"
	parsed(f, "addr", "", "host:port", "Listen there; port 0 is one that is free (default 127.0.0.1:5000)", assign(&r.Addr, parseAddr))
	f.StringVar(&r.TLSCert, "tls-cert", "", "Speak HTTPS with the certificate of this PEM file")
	f.StringVar(&r.TLSKey, "tls-key", "", "The certificate's key, a PEM file")
	f.StringVar(&r.Htpasswd, "htpasswd", "", "Ask for the names and passwords of this file (htpasswd -B)")
	f.BoolVar(&r.ReadOnly, "read-only", false, "Refuse to push and to delete")
	parsed(f, "mirror", "", "domain[=url]", "Fetch from this registry what is missing, and keep it; several are possible", func(s string) error {
		domain, url, given := strings.Cut(s, "=")
		if domain == "" || given && !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") {
			return fmt.Errorf("want DOMAIN or DOMAIN=URL, as in docker.io=https://mirror.example.org")
		}
		r.Mirrors = append(r.Mirrors, s)
		return nil
	})
	return c
}

// parseAddr reads where to listen.
func parseAddr(s string) (string, error) {
	if _, _, err := net.SplitHostPort(s); err != nil {
		return "", fmt.Errorf("want HOST:PORT, or :PORT for every address of this machine")
	}
	return s, nil
}
