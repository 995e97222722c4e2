package oci

import (
	"bytes"
	"encoding/json"
	"testing"

	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
)

// FuzzState: whatever stands in a state file is a state or an error; a state is the same when it has been written and read again.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"ociVersion":"1.3.0","id":"x","init_process_pid":5,"created":"2024-01-02T03:04:05.6Z","annotations":{"a":"b"},"cgroup_paths":{"":"/x"},"rdt":{"dir":"/d","own":true}}`))
	f.Add([]byte(`{"id":"x","pid":-1}`))
	data, err := record.Marshal(&entry{ID: "x", Bundle: "/b", Pid: 7, BootID: "b", StartTicks: 1 << 60, Annotations: map[string]string{"k": "v"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var e entry
		if jsonscan.Decode(data, &e, readEntry) != nil {
			return
		}
		if !json.Valid(data) {
			t.Errorf("a state is read from what is no JSON: %q", data)
		}
		written, err := record.Marshal(&e)
		if err != nil {
			return // a year beyond what time.Time writes
		}
		var again entry
		if err := jsonscan.Decode(written, &again, readEntry); err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if twice, err := record.Marshal(&again); err != nil || !bytes.Equal(twice, written) { // by what is written: an empty map is left out
			t.Errorf("%+v became %s, which is read as %+v, %v", e, written, again, err)
		}
	})
}
