package meta

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
)

// fill sets every field of a record, lists and maps to two elements.
func fill(v reflect.Value, n *int) {
	*n++
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Unix(int64(*n), 5).UTC()
		return
	case *netip.Addr:
		*x = netip.AddrFrom4([4]byte{10, 0, 0, byte(*n)})
		return
	case *netip.Prefix:
		*x = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(*n)}), 8)
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(-*n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n % 256))
	case reflect.String:
		v.SetString("ä\"\x00" + strings.Repeat("x", *n%5))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, key := range []string{"b", "a\t"} {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, n)
			v.SetMapIndex(reflect.ValueOf(key), e)
		}
	default:
		panic("no value for a " + v.Type().String())
	}
}

// roundTrip holds the generated reader against encoding/json, on a full record, an empty one and damaged ones.
func roundTrip[T any](t *testing.T, read func(*jsonscan.Scanner, *T)) {
	t.Helper()
	full, n := new(T), 0
	fill(reflect.ValueOf(full).Elem(), &n)
	data, err := record.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	got := new(T)
	if err := jsonscan.Decode(data, got, read); err != nil || !reflect.DeepEqual(got, full) {
		t.Errorf("%s\nbecame %+v, %v", data, got, err)
	}
	empty, err := record.Marshal(new(T))
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range [][]byte{data, empty} {
		for i := range from {
			for _, c := range []string{"", "null", "1", "{}"} {
				bad := string(from[:i]) + c + string(from[i+1:])
				got, want := new(T), new(T)
				err, wantErr := jsonscan.Decode([]byte(bad), got, read), json.Unmarshal([]byte(bad), want)
				if (err == nil) != (wantErr == nil) || err == nil && !reflect.DeepEqual(got, want) {
					t.Fatalf("%s: %v, encoding/json: %v", bad, err, wantErr)
				}
			}
		}
	}
}

func TestGeneratedReaders(t *testing.T) {
	roundTrip[api.Image](t, readImage)
	roundTrip[api.Container](t, readContainer)
}
