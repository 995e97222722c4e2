package snapshot

import "testing"

func TestReadsWhole(t *testing.T) {
	for release, want := range map[string]bool{
		"7.0.0": true, "7.1.3-arch1": true, "10.0": true, "6.18.44-fc": true, "6.18.60": true, "6.18.43": false, "6.19.1": false, "6.12.90-amd64": false, "6.1.0-40-amd64": false,
		"6.18": false, "": false, "x.y": false,
	} {
		if got := readsWhole(release); got != want {
			t.Errorf("%q: %t", release, got)
		}
	}
}
