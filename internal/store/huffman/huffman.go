// Package huffman makes prefix codes of limited length, as deflate and zstd have them.
package huffman

import "slices"

// Lengths gives each symbol that occurs a code of at most limit bits, by how often it occurs. There may be 512 symbols. The code is complete, unless only one symbol occurs: that one gets a bit.
func Lengths(freq []uint32, limit int, lens []uint8) {
	type node struct {
		weight uint64
		symbol int // -1: inner
		left   int
		right  int
	}
	clear(lens)
	const symbolBits = 9
	var room [1 << symbolBits]uint64
	order := room[:0] // weight and symbol in one number, which is quick to sort
	for s, f := range freq {
		if f > 0 {
			order = append(order, uint64(f)<<symbolBits|uint64(s))
		}
	}
	leaves := len(order)
	if leaves <= 1 {
		for _, o := range order {
			lens[o&(1<<symbolBits-1)] = 1
		}
		return
	}
	slices.Sort(order)
	nodes := make([]node, 0, 2*leaves-1)
	for _, o := range order {
		nodes = append(nodes, node{o >> symbolBits, int(o & (1<<symbolBits - 1)), -1, -1})
	}
	// The leaves in their order and the inner nodes in theirs are both sorted: the least is at the head of one of them.
	leaf, inner := 0, leaves
	least := func() int {
		if leaf < leaves && (inner == len(nodes) || nodes[leaf].weight <= nodes[inner].weight) {
			leaf++
			return leaf - 1
		}
		inner++
		return inner - 1
	}
	for len(nodes) < 2*leaves-1 {
		a := least()
		b := least()
		nodes = append(nodes, node{nodes[a].weight + nodes[b].weight, -1, a, b})
	}
	depth := make([]int, len(nodes))
	var count [64]int
	for i := len(nodes) - 1; i >= 0; i-- {
		if nodes[i].symbol >= 0 {
			count[min(depth[i], limit)]++
			continue
		}
		depth[nodes[i].left] = depth[i] + 1
		depth[nodes[i].right] = depth[i] + 1
	}
	// Codes that were cut to the limit need room: some shorter ones become longer, until all fit.
	total := 0
	for n := 1; n <= limit; n++ {
		total += count[n] << (limit - n)
	}
	for total > 1<<limit {
		n := limit - 1
		for count[n] == 0 {
			n--
		}
		count[n]--
		count[n+1] += 2
		count[limit]--
		total--
	}
	// The rarest symbols get the longest codes.
	n := limit
	for i := range leaves {
		for count[n] == 0 {
			n--
		}
		lens[nodes[i].symbol] = uint8(n)
		count[n]--
	}
}
