package wire

import (
	"reflect"
	"testing"
)

func FuzzSettings(f *testing.F) {
	want := Settings{Time: -3, Seed: []byte{0, 255}, DNS: true, Links: []Link{
		{Name: "eth0", MAC: "02:42:0a:00:00:02", MTU: 1500, Addrs: []string{"10.0.0.2/16", "fd00::2/64"}, Routes: []Route{{Dst: "0.0.0.0/0", Gateway: "10.0.0.1"}, {Dst: "10.1.0.0/16"}}},
		{Name: "eth1"},
	}}
	body := want.Encode()
	if got, err := ParseSettings(body); err != nil || !reflect.DeepEqual(got, want) {
		f.Fatalf("%+v, %v", got, err)
	}
	for n := range body {
		if _, err := ParseSettings(body[:n]); err == nil {
			f.Errorf("the first %d bytes of %d were taken for the whole", n, len(body))
		}
	}
	f.Add(body)
	f.Add((&Settings{}).Encode())
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := ParseSettings(body)
		if err != nil {
			return
		}
		if again, err := ParseSettings(s.Encode()); err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}
