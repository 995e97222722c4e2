package network

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

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
			var attached, detached []time.Duration
			for b.Loop() {
				id, start := id.New(), time.Now()
				l, err := m.Attach(context.Background(), id, api.NetworkSpec{Ports: c.ports})
				if err != nil {
					b.Fatal(err)
				}
				attached = append(attached, time.Since(start))
				start = time.Now()
				if err := m.Detach(context.Background(), id); err != nil {
					b.Fatal(err)
				}
				detached = append(detached, time.Since(start))
				closeAll(append(l.Held, l.NetNS))
				time.Sleep(10 * time.Millisecond) // the kernel removes the interface
			}
			report(b, "attach", attached)
			report(b, "detach", detached)
		})
	}
}

// BenchmarkSteps tells where Attach spends its time.
func BenchmarkSteps(b *testing.B) {
	m := manager(b)
	attach(b, m)
	names := []string{"sockets", "join", "namespace", "veth", "configure", "settle", "dns", "close"}
	times := make(map[string][]time.Duration)
	for b.Loop() {
		id, last, step := id.New(), time.Now(), 0
		done := func(err error) {
			if err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			times[names[step]] = append(times[names[step]], now.Sub(last))
			last, step = now, step+1
		}
		rt, nft, err := dialBoth()
		done(err)
		s := m.ground()
		br, addrs, err := s.join(nft, func(br bridge) ([]netip.Prefix, error) {
			addr, err := s.lease(id, br)
			return br.addresses(addr), err
		}, func() { s.release(id) })
		done(err)
		ns, inside, err := newNamespace(rt, nil)
		done(err)
		at := place{name: containerInterface, index: firstPeerIndex, mac: macOf(addrs[0].Addr()), addrs: addrs, gateways: br.gateways(), leads: families{true, true}}
		port, err := s.connect(rt, &br, ns, at, false)
		done(err)
		done(at.configure(inside))
		done(settle(rt, inside, br, port, addrs))
		m.addDNS(&api.Link{}, api.NetworkSpec{}, true)
		done(nil)
		inside.Close()
		rt.Close()
		nft.Close()
		done(nil)
		if err := m.Detach(context.Background(), id); err != nil {
			b.Fatal(err)
		}
		ns.Close()
		time.Sleep(10 * time.Millisecond)
	}
	for _, n := range names {
		report(b, n, times[n])
	}
}

// report gives the median, since a machine that does other things too has a long tail.
func report(b *testing.B, what string, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "µs/"+what)
}
