package record

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"brig/api"
)

// fill sets every field of a value to something that is not zero, lists and maps to two elements.
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
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(-*n % 128))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n % 256))
	case reflect.String:
		v.SetString("ä\"\\\x00\n<&>\u2028\xff" + strings.Repeat("x", *n%5))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("json") != "-" {
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
			v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), e)
		}
	}
}

// same fails where encoding/json reads another value from what is written than from what it wrote itself.
func same[T any](t *testing.T, v T) {
	t.Helper()
	got, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	std, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var ours, theirs T
	if err := json.Unmarshal(got, &ours); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if err := json.Unmarshal(std, &theirs); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(ours, theirs) {
		t.Errorf("got  %s\nwant %s", got, std)
	}
	var names, stdNames any // fields that are left out are left out on both sides
	if json.Unmarshal(got, &names) != nil || json.Unmarshal(std, &stdNames) != nil || !reflect.DeepEqual(names, stdNames) {
		t.Errorf("got  %s\nwant %s", got, std)
	}
}

func TestSameAsEncodingJSON(t *testing.T) {
	same(t, api.Container{})
	same(t, api.Image{})
	var c api.Container
	var img api.Image
	n := 0
	fill(reflect.ValueOf(&c).Elem(), &n)
	fill(reflect.ValueOf(&img).Elem(), &n)
	if len(c.Spec.Mounts) != 2 || c.Link.Addresses[1].Bits() != 8 || img.Config.Env[1] == "" {
		t.Fatal("not filled")
	}
	same(t, c)
	same(t, img)
	empty := []string{}
	same(t, api.Container{Spec: api.ContainerSpec{Entrypoint: &empty, Labels: map[string]string{}}})
	same(t, []byte("bytes"))
	same(t, []byte(nil))
	same(t, [2]map[string]int{nil, {}})
}

func TestUnknownKindsAreErrors(t *testing.T) {
	for _, v := range []any{
		1.5, make(chan int), []any{1}, map[int]string{1: "x"}, json.RawMessage("1"),
		struct{ *api.Resources }{}, struct {
			A int `json:"a,string"`
		}{1},
	} {
		if b, err := Marshal(v); err == nil {
			t.Errorf("%T: %s", v, b)
		}
	}
}

func FuzzStrings(f *testing.F) {
	f.Add("a\"\\\x1f\x7f\xff\u2028é")
	f.Fuzz(func(t *testing.T, s string) { same(t, map[string]string{s: s}) })
}

type (
	Inner struct {
		A int `json:"a,omitempty"`
		B string
	}
	hidden   struct{ C []int }
	embedder struct {
		Inner
		hidden
		D *int `json:"d,omitempty"`
	}
)

// TestEmbedded: the fields of an embedded struct stand in its place, as in encoding/json.
func TestEmbedded(t *testing.T) {
	for _, v := range []any{embedder{}, embedder{Inner{1, "x"}, hidden{[]int{2}}, nil}, embedder{D: new(int)}, struct{ hidden }{}, struct{ Inner }{}} {
		got, err := Marshal(v)
		want, wantErr := json.Marshal(v)
		if err != nil || wantErr != nil || string(got) != string(want) {
			t.Errorf("%s, %v; encoding/json: %s, %v", got, err, want, wantErr)
		}
	}
	if b, err := Marshal(struct{ *Inner }{&Inner{}}); err == nil {
		t.Errorf("an embedded pointer became %s", b)
	}
}
