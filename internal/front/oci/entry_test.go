package oci

import (
	"brig/internal/kernel/resctrl"
	"reflect"
	"testing"
	"time"

	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
)

// TestEntryComesBack: every field of the state is read again.
func TestEntryComesBack(t *testing.T) {
	e := entry{Created: time.Unix(1700000000, 5).UTC(), Annotations: map[string]string{"a": "ä\x00"}, CgroupPaths: map[string]string{"": "/x"}, Mount: "/m", Unit: "u.scope", RDT: &resctrl.Group{Dir: "/d", Monitor: "/m", Own: true}}
	v := reflect.ValueOf(&e).Elem()
	fields := 0
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		fields++
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(v.Type().Field(i).Name)
		case reflect.Int:
			f.SetInt(-5)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Uint64:
			f.SetUint(1 << 63)
		}
		if v.Field(i).IsZero() {
			t.Errorf("no value for %s", v.Type().Field(i).Name)
		}
	}
	if fields != len(entryNames) {
		t.Errorf("a state has %d fields, %d are read", fields, len(entryNames))
	}
	data, err := record.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var got entry
	if err := jsonscan.Decode(data, &got, readEntry); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%s became %+v, %v", data, got, err)
	}
}
