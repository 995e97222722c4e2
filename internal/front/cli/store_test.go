package cli

import (
	"slices"
	"strings"
	"testing"

	"brig/api"
)

func TestSystemDf(t *testing.T) {
	f := &fake{usage: api.DiskUsage{
		Total: 5_001_000, Limit: 8_000_000,
		Types: []api.TypeUsage{
			{Type: "Images", Total: 2, Active: 1, Size: 5_000_000, Reclaimable: 1_000_000},
			{Type: "Containers"},
			{Type: "Other", Total: 1, Active: 1, Size: 1000},
		},
		Images:  []api.ImageUsage{{Image: api.Image{Name: "docker.io/library/debian:12", ID: "sha256:" + testID}, Size: 4_000_000, Shared: 1_500_000, Containers: 1}},
		Volumes: []api.VolumeUsage{{Name: "data", Links: 2, Size: 4096}},
		Others:  []api.OtherUsage{{What: "trash", Size: 1000, Reclaimable: 1000}},
	}}
	brig(t, f, "system", "df").wants(t, 0, `TYPE         TOTAL     ACTIVE    SIZE      RECLAIMABLE
Images       2         1         5MB       1MB (20%)
Containers   0         0         0B        0B
Other        1         1         1kB       0B (0%)
`)
	brig(t, f, "system", "df", "--format", "{{.Type}} {{.SizeBytes}} {{.ReclaimableBytes}}").wants(t, 0, "Images 5000000 1000000\nContainers 0 0\nOther 1000 0\n")
	brig(t, f, "system", "df", "--format", "json").wants(t, 0, `{"Active":"1","Reclaimable":"1MB (20%)","Size":"5MB","TotalCount":"2","Type":"Images","SizeBytes":5000000,"ReclaimableBytes":1000000}
{"Active":"0","Reclaimable":"0B","Size":"0B","TotalCount":"0","Type":"Containers","SizeBytes":0,"ReclaimableBytes":0}
{"Active":"1","Reclaimable":"0B (0%)","Size":"1kB","TotalCount":"1","Type":"Other","SizeBytes":1000,"ReclaimableBytes":0}
`)
	r := brig(t, f, "system", "df", "-v")
	for _, line := range []string{
		"REPOSITORY   TAG       IMAGE ID       CREATED   SIZE      SHARED SIZE   UNIQUE SIZE   CONTAINERS\n",
		"debian       12        0123456789ab   N/A       4MB       1.5MB         2.5MB         1\n",
		"VOLUME NAME   LINKS     SIZE\ndata          2         4.1kB\n",
		"trash     1kB       1kB\n", "Total: 5MB of 8MB\n",
	} {
		if !strings.Contains(r.out, line) {
			t.Errorf("no %q in\n%s", line, r.out)
		}
	}
	if r := brig(t, f, "system", "df", "-v", "--format", "json"); r.code != 0 || !strings.HasPrefix(r.out, `{"Images":[{"Repository":"debian"`) || !strings.Contains(r.out, `"Containers":[],`) {
		t.Errorf("%+v", r)
	}
}

func TestPrune(t *testing.T) {
	pruned := api.PruneReport{Reclaimed: 2000}
	for _, c := range []struct {
		args, calls []string
	}{
		{[]string{"container", "prune", "-f"}, []string{"prune containers [] [] false"}},
		{[]string{"container", "prune", "-f", "--filter", "label=a=b", "--filter", "label!=c", "--filter", "until=1h"}, []string{"prune containers [a=b] [c] true"}},
		{[]string{"image", "prune", "-f"}, []string{"prune images false []"}},
		{[]string{"image", "prune", "-af", "--filter", "label=x"}, []string{"prune images true [x]"}},
		{[]string{"system", "prune", "-f"}, []string{"prune containers [] [] false", "prune networks", "prune images false []"}},
		{[]string{"system", "prune", "-af", "--volumes"}, []string{"prune containers [] [] false", "prune networks", "prune volumes", "prune images true []"}},
	} {
		f := &fake{pruned: pruned}
		if r := brig(t, f, c.args...); r.code != 0 || !slices.Equal(f.calls, c.calls) {
			t.Errorf("%v: %v, %+v", c.args, f.calls, r)
		}
	}
	f := &fake{pruned: api.PruneReport{Containers: []string{"a", "b"}, Reclaimed: 1500}}
	brig(t, f, "container", "prune", "-f").wants(t, 0, "Deleted Containers:\na\nb\n\nTotal reclaimed space: 1.5kB\n")
	// What was removed is told although something else failed.
	f.err = api.Errorf(api.Corrupt, "a record")
	r := brig(t, f, "system", "prune", "-f")
	if r.code != 1 || !strings.Contains(r.out, "Deleted Containers:\na\nb\n") || r.errOut != "brig: a record\n" || len(f.calls) != 4 {
		t.Errorf("%+v, %v", r, f.calls)
	}
}

func TestPruneAsks(t *testing.T) {
	for answer, goes := range map[string]bool{"y\n": true, "Y\n": true, "yes\n": false, "n\n": false, "\n": false, "": false} {
		for _, args := range [][]string{{"container", "prune"}, {"image", "prune"}, {"system", "prune"}} {
			f := &fake{}
			r := brigWith(t, f, api.Streams{Stdin: strings.NewReader(answer)}, args...)
			if r.code != 0 || (len(f.calls) > 0) != goes || !strings.HasPrefix(r.out, "WARNING! This will remove") || !strings.Contains(r.out, "Are you sure you want to continue? [y/N] ") {
				t.Errorf("%q, %v: %v, %+v", answer, args, f.calls, r)
			}
		}
	}
	r := brigWith(t, &fake{}, api.Streams{Stdin: strings.NewReader("n\n")}, "system", "prune", "-a", "--volumes", "--filter", "label=x")
	for _, line := range []string{"  - all stopped containers\n", "  - all networks not used by at least one container\n", "  - all anonymous volumes not used by at least one container\n", "  - all images without at least one container associated to them\n", "  - label=x\n"} {
		if !strings.Contains(r.out, line) {
			t.Errorf("no %q in\n%s", line, r.out)
		}
	}
}

func TestPruneRefuses(t *testing.T) {
	for args, words := range map[string]string{
		"image prune -f --filter dangling=true":               "the filters are until, label, label!",
		"image prune -f --filter until":                       "use until=TIME",
		"container prune -f --filter until=yesterday":         "invalid time",
		"system prune -f --filter until=1h --filter until=2h": "more than one until",
	} {
		f := &fake{}
		if r := brig(t, f, strings.Fields(args)...); r.code != 125 || !strings.Contains(r.errOut, words) || len(f.calls) > 0 {
			t.Errorf("%s: %+v", args, r)
		}
	}
	f := &fake{}
	if r := brig(t, f, "system", "prune", "-f", "--volumes", "--filter", "until=1h"); r.code != 1 || len(f.calls) > 0 {
		t.Errorf("%+v", r)
	}
	brig(t, f, "image", "prune", "x").complains(t, 1, "brig: 'brig image prune' accepts no arguments")
}

func TestSystemCheck(t *testing.T) {
	f := &fake{checked: api.CheckReport{Images: 1, Blobs: 3, Bytes: 5000, Layers: 1}}
	brig(t, f, "system", "check").wants(t, 0, "Checked 1 images, 0 containers, 3 blobs (5kB), 1 layers: all is well\n")
	f.checked.Problems = []api.Problem{{Kind: "blob", Name: "sha256:1", Trouble: "other bytes", Advice: "do something"}, {Kind: "layer", Name: "sha256:2", Trouble: "a file", Repaired: "again"}}
	f.checked.Leftovers = []api.Problem{{Kind: "leftover", Name: "trash/x", Trouble: "trash, 5 bytes"}}
	brig(t, f, "system", "check").wants(t, 1, `blob sha256:1: other bytes
  do something
layer sha256:2: a file
  repaired: again
Left over by processes that were broken off: 1; `+"`brig system prune`"+` removes them
  trash/x: trash, 5 bytes
Checked 1 images, 0 containers, 3 blobs (5kB), 1 layers: 1 repaired, 1 damaged
`)
	f.checked.Problems = f.checked.Problems[1:]
	if r := brig(t, f, "system", "check", "--repair", "--tls-verify=false"); r.code != 0 || f.calls[len(f.calls)-1] != "check true true" {
		t.Errorf("%+v, %v", r, f.calls)
	}
	brig(t, f, "system", "check", "--format", "xml").complains(t, 125, `brig: invalid format "xml": use json`)
}

func TestSystemLimit(t *testing.T) {
	f := &fake{}
	brig(t, f, "system", "limit").wants(t, 0, "none\n")
	brig(t, f, "system", "limit", "20g").wants(t, 0, "")
	brig(t, f, "system", "limit").wants(t, 0, "21474836480\n")
	brig(t, f, "system", "limit", "1k").complains(t, 1, "brig: a limit of 1024 bytes is too small")
	brig(t, f, "system", "limit", "much").complains(t, 1, "brig: invalid size")
	brig(t, f, "system", "limit", "none").wants(t, 0, "")
	if f.limit != 0 {
		t.Error(f.limit)
	}
}

// TestImagesDamagedRecord: the others are listed.
func TestImagesDamagedRecord(t *testing.T) {
	f := &fake{imgs: []api.Image{{Name: "docker.io/library/debian:12", ID: "sha256:" + testID}}, err: api.Errorf(api.Corrupt, "one is damaged")}
	r := brig(t, f, "images", "-q")
	if r.code != 0 || r.out != "0123456789ab\n" || r.errOut != "brig: one is damaged\n" {
		t.Errorf("%+v", r)
	}
}
