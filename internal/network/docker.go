package network

import (
	"encoding/binary"

	"brig/internal/kernel/netlink"

	"golang.org/x/sys/unix"
)

// dockerChain is where Docker lets others put rules before its own (docs: "Packet filtering and firewalls").
const dockerChain = "DOCKER-USER"

func dockerTables() []netlink.Table {
	return []netlink.Table{{Family: unix.NFPROTO_IPV4, Name: "filter"}, {Family: unix.NFPROTO_IPV6, Name: "filter"}}
}

// passDocker lets a bridge's packets through Docker's firewall, if it is there and made with nftables: what Docker forwards not itself, it drops.
// The rules go to the end of the chain, but before a bare return that older versions of Docker end it with, so that all that the host's
// administrator has put there comes first. They have the form that iptables writes, so that it can still list the chain.
func passDocker(nft *netlink.Conn, bridge string) error {
	if err := unpassDocker(nft, bridge); err != nil {
		return err
	}
	for _, t := range dockerTables() {
		has, err := nft.HasChain(t, dockerChain)
		if err != nil {
			return err
		}
		if !has {
			continue
		}
		rules, err := nft.Rules(t, dockerChain)
		if err != nil {
			return err
		}
		var before uint64
		if n := len(rules); n > 0 && rules[n-1].Returns {
			before = rules[n-1].Handle
		}
		name := append([]byte(bridge), 0)
		var r netlink.Request
		r.Batch(func() {
			for _, key := range []uint32{unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME} {
				r.AddRule(t, netlink.Rule{Chain: dockerChain, Comment: dockerComment(bridge), Before: before, Exprs: []netlink.Expr{
					netlink.Meta(key, regIn), netlink.Equal(regIn, name), netlink.Counter(), netlink.Verdict(netlink.Accept, ""),
				}})
			}
		})
		if err := nft.Do(&r, nil); err != nil {
			return err
		}
	}
	return nil
}

// unpassDocker takes our rules out again.
func unpassDocker(nft *netlink.Conn, bridge string) error {
	for _, t := range dockerTables() {
		has, err := nft.HasChain(t, dockerChain)
		if err != nil {
			return err
		}
		if !has {
			continue
		}
		rules, err := nft.Rules(t, dockerChain)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			if rule.Comment != dockerComment(bridge) {
				continue
			}
			var r netlink.Request
			r.Batch(func() { r.DelRule(t, dockerChain, rule.Handle) })
			if err := nft.Do(&r, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func dockerComment(bridge string) string { return "brig: " + bridge }

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
