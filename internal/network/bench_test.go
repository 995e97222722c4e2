package network

import (
	"context"
	"testing"

	"brig/api"
	"brig/internal/base/id"
)

// BenchmarkAttach is the price of a link on a bridge that is there: the part of `brig run` that the budget of 2 ms is for.
func BenchmarkAttach(b *testing.B) {
	for _, c := range []struct {
		name  string
		ports []api.PortSpec
	}{{"plain", nil}, {"port", []api.PortSpec{{ContainerPort: 80, Protocol: "tcp"}}}} {
		b.Run(c.name, func(b *testing.B) {
			m := manager(b)
			attach(b, m)
			for b.Loop() {
				id := id.New()
				l, err := m.Attach(context.Background(), id, api.NetworkSpec{Ports: c.ports})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				closeAll(append(l.Held, l.NetNS))
				if err := m.Detach(context.Background(), id); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
