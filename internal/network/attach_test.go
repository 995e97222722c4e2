package network

import "testing"

func TestSmoke(t *testing.T) {
	m := manager(t)
	_, l := attach(t, m)
	t.Log(l)
	serve(t, l.NetNS, "tcp", ":80")
	wantSource(t, "host", nil, "tcp", l.Addresses[0].Addr().String()+":80", l.Gateways[0].String())
	wantSource(t, "host", nil, "tcp", "["+l.Addresses[1].Addr().String()+"]:80", l.Gateways[1].String())
}
