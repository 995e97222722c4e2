package cli

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

func (a *app) port() *cobra.Command {
	p := picking(running)
	cmd := &cobra.Command{
		Use:               "port [OPTIONS] CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short:             "List port mappings or a specific mapping for the container",
		Example:           "  brig port web\n  brig port web 80/tcp\n  brig port --all",
		ValidArgsFunction: a.completeContainer(running),
	}
	f := cmd.Flags()
	p.allFlag(f, "a", "Display port information for all containers")
	p.latestFlag(f)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if p.all {
			return p.args(cmd, args)
		}
		return p.shifted(oneOrTwoArgs)(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if p.all {
			names, err := p.names(cmd.Context(), a, nil)
			if err != nil {
				return err
			}
			return a.each(cmd.Context(), names, func(name string) (string, error) {
				c, err := a.engine().Inspect(cmd.Context(), name)
				if err != nil || c.Link == nil {
					return "", err
				}
				return portLines(&c, shortID(c.ID)+"\t"), nil
			})
		}
		name, words, err := p.one(cmd.Context(), a, args)
		if err != nil {
			return err
		}
		c, err := a.engine().Inspect(cmd.Context(), name)
		if err != nil {
			return err
		}
		if len(words) == 0 {
			if lines := portLines(&c, ""); lines != "" {
				a.printf("%s\n", lines)
			}
			return nil
		}
		return a.printPort(&c, name, words[0])
	}
	return cmd
}

// portLines are the published ports, a line each, sorted as docker does.
func portLines(c *api.Container, prefix string) string {
	if c.Link == nil {
		return ""
	}
	var lines []string
	for _, p := range sortedPorts(c.Link.Ports) {
		lines = append(lines, fmt.Sprintf("%s%d/%s -> %s", prefix, p.ContainerPort, p.Protocol, net.JoinHostPort(hostIP(p), strconv.Itoa(int(p.HostPort)))))
	}
	slices.SortStableFunc(lines, naturalOrder)
	return strings.Join(lines, "\n")
}

// naturalOrder compares by the number that a line begins with, which is what a reader expects of ports.
func naturalOrder(x, y string) int {
	a, _, _ := strings.Cut(x, "/")
	b, _, _ := strings.Cut(y, "/")
	m, _ := strconv.Atoi(a)
	n, _ := strconv.Atoi(b)
	return m - n
}

// printPort prints where one port of the container is published.
func (a *app) printPort(c *api.Container, name, text string) error {
	number, protocol, found := strings.Cut(text, "/")
	if !found {
		protocol = "tcp"
	}
	want, err := port(number)
	if err != nil {
		return fmt.Errorf("invalid port: %q: use PORT[/PROTOCOL]", text)
	}
	there := false
	if c.Link != nil {
		for _, p := range sortedPorts(c.Link.Ports) {
			if int(p.ContainerPort) == want && p.Protocol == strings.ToLower(protocol) {
				a.printf("%s\n", net.JoinHostPort(hostIP(p), strconv.Itoa(int(p.HostPort))))
				there = true
			}
		}
	}
	if !there {
		return fmt.Errorf("no public port '%d/%s' published for %s", want, protocol, name)
	}
	return nil
}
