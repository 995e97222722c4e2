package resctrl

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Stats has the shape and the JSON names of intel_rdt in `runc events --stats` (runc's types/events.go). What the processor does not have
// is left out.
type Stats struct {
	L3CacheInfo       *L3CacheInfo `json:"l3_cache_info,omitempty"`
	L3CacheSchemaRoot string       `json:"l3_cache_schema_root,omitempty"`
	L3CacheSchema     string       `json:"l3_cache_schema,omitempty"`
	MemBwInfo         *MemBwInfo   `json:"mem_bw_info,omitempty"`
	MemBwSchemaRoot   string       `json:"mem_bw_schema_root,omitempty"`
	MemBwSchema       string       `json:"mem_bw_schema,omitempty"`
	MBM               []MBM        `json:"mbm_stats,omitempty"` // by NUMA node, or what shares a cache
	CMT               []CMT        `json:"cmt_stats,omitempty"`
}

// L3CacheInfo is what the processor can do with its cache.
type L3CacheInfo struct {
	CbmMask    string `json:"cbm_mask,omitempty"`
	MinCbmBits uint64 `json:"min_cbm_bits,omitempty"`
	NumClosids uint64 `json:"num_closids,omitempty"`
}

// MemBwInfo is what it can do with memory bandwidth.
type MemBwInfo struct {
	BandwidthGran uint64 `json:"bandwidth_gran,omitempty"`
	DelayLinear   uint64 `json:"delay_linear,omitempty"`
	MinBandwidth  uint64 `json:"min_bandwidth,omitempty"`
	NumClosids    uint64 `json:"num_closids,omitempty"`
}

// MBM is memory bandwidth monitoring, in bytes since the group was made.
type MBM struct {
	TotalBytes uint64 `json:"mbm_total_bytes"`
	LocalBytes uint64 `json:"mbm_local_bytes"`
}

// CMT is cache monitoring, in bytes now.
type CMT struct {
	Occupancy uint64 `json:"llc_occupancy"`
}

// Stats reads what the group may use and uses.
func (t *Tree) Stats(g *Group) (*Stats, error) {
	s := &Stats{}
	root, err := os.ReadFile(t.dir + "/schemata")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile(g.Dir + "/schemata")
	if err != nil {
		return nil, err
	}
	info := t.dir + "/info/L3"
	if mask, err := os.ReadFile(info + "/cbm_mask"); err == nil {
		s.L3CacheInfo = &L3CacheInfo{strings.TrimSpace(string(mask)), number(info + "/min_cbm_bits"), number(info + "/num_closids")}
		s.L3CacheSchemaRoot, s.L3CacheSchema = lineOf(root, "L3"), lineOf(own, "L3")
	}
	info = t.dir + "/info/MB"
	if _, err := os.Stat(info); err == nil {
		s.MemBwInfo = &MemBwInfo{number(info + "/bandwidth_gran"), number(info + "/delay_linear"), number(info + "/min_bandwidth"), number(info + "/num_closids")}
		s.MemBwSchemaRoot, s.MemBwSchema = lineOf(root, "MB"), lineOf(own, "MB")
	}
	dir := g.Dir
	if g.Monitor != "" {
		dir = g.Monitor
	}
	nodes, err := os.ReadDir(dir + "/mon_data")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	slices.SortFunc(nodes, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, node := range nodes {
		if !strings.HasPrefix(node.Name(), "mon_L3_") {
			continue
		}
		path := dir + "/mon_data/" + node.Name()
		if _, err := os.Stat(path + "/llc_occupancy"); err == nil {
			s.CMT = append(s.CMT, CMT{number(path + "/llc_occupancy")})
		}
		_, total := os.Stat(path + "/mbm_total_bytes")
		_, local := os.Stat(path + "/mbm_local_bytes")
		if total == nil || local == nil {
			s.MBM = append(s.MBM, MBM{number(path + "/mbm_total_bytes"), number(path + "/mbm_local_bytes")})
		}
	}
	return s, nil
}

// number reads a file with one number; 0 stands for "Unavailable", and for a file that this processor does not have.
func number(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// lineOf finds a resource's line in a schemata file.
func lineOf(file []byte, name string) string {
	for line := range strings.Lines(string(file)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, name+":") {
			return line
		}
	}
	return ""
}
