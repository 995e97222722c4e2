package oci

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
)

// fill sets every field, lists and maps to two elements.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(-*n))
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.String:
		v.SetString("ä\x00" + strings.Repeat("x", *n%5))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); v.Type() != reflect.TypeFor[specs.Spec]() || f.Tag.Get("platform") == "" || strings.Contains(f.Tag.Get("platform"), "linux") {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, key := range []string{"b", "a"} {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, n)
			v.SetMapIndex(reflect.ValueOf(key), e)
		}
	default:
		panic("no value for a " + v.Type().String())
	}
}

// TestOrderComesBack: a stage reads every field of what its maker asks, the whole configuration among them.
func TestOrderComesBack(t *testing.T) {
	o, n := new(order), 0
	fill(reflect.ValueOf(o).Elem(), &n)
	if mode := o.Spec.Linux.Devices[0].FileMode; n < 500 || mode == nil || *mode == os.FileMode(0) {
		t.Fatalf("%d values", n)
	}
	data, err := record.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	got := new(order)
	if err := jsonscan.Decode(data, got, readOrder); err != nil || !reflect.DeepEqual(got, o) {
		t.Errorf("%s\nbecame %+v, %v", data, got, err)
	}
}
