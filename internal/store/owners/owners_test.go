package owners

import (
	"bytes"
	"testing"

	"brig/api"
)

func TestMap(t *testing.T) {
	m := Map{UIDs: []api.IDRange{{Inside: 0, Outside: 1, Size: 1000}, {Inside: 1000, Outside: 0, Size: 1}}, GIDs: []api.IDRange{{Inside: 0, Outside: 5, Size: 10}}}
	for _, c := range []struct{ uid, gid, inUID, inGID uint32 }{{0, 5, 1000, 0}, {1, 14, 0, 9}, {1000, 15, 999, Nobody}, {1001, 4, Nobody, Nobody}} {
		if u, g := m.Inside(c.uid, c.gid); u != c.inUID || g != c.inGID {
			t.Errorf("%d:%d is %d:%d inside", c.uid, c.gid, u, g)
		}
	}
	for in, want := range map[uint32]uint32{0: 1, 999: 1000, 1000: 0} {
		if got, ok := Outside(m.UIDs, in); !ok || got != want {
			t.Errorf("%d is %d outside, %t", in, got, ok)
		}
	}
	if _, ok := Outside(m.UIDs, 1001); ok {
		t.Error("1001 is mapped")
	}
	if a, b := Stranger(m.UIDs), Stranger(m.GIDs); a != 1001 || b != 0 {
		t.Errorf("strangers are %d and %d", a, b)
	}
	if m.Same() || !(Map{UIDs: []api.IDRange{{Inside: 7, Outside: 7, Size: 3}}}).Same() {
		t.Error("what is the same is not")
	}
}

// TestAttribute: numbers in access lists and capabilities change, and nothing else, whatever an image brings.
func TestAttribute(t *testing.T) {
	to := func(uid, gid uint32) (uint32, uint32) { return uid - 1, gid + 256 }
	list := []byte("\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x21\x00\x00\x00" + "\x08\x00\x04\x00\x07\x00\x00\x00" + "\x20\x00\x04\x00\xff\xff\xff\xff")
	want := []byte("\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x20\x00\x00\x00" + "\x08\x00\x04\x00\x07\x01\x00\x00" + "\x20\x00\x04\x00\xff\xff\xff\xff")
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		if got := Attribute(name, list, to); !bytes.Equal(got, want) {
			t.Errorf("%s: %x", name, got)
		}
	}
	if list[16] != 0x21 && list[12+4] != 0x21 {
		t.Error("the value that was given has changed")
	}
	v3 := func(root byte) []byte {
		return append([]byte("\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), root, 0, 0, 0)
	}
	if got := Attribute("security.capability", v3(1), to); string(got) != "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("capability for root: %x", got)
	}
	if got := Attribute("security.capability", v3(9), to); !bytes.Equal(got, v3(8)) {
		t.Errorf("capability for another: %x", got)
	}
	for _, odd := range []string{"", "\x02", "\x02\x00\x00\x00x", "\x03\x00\x00\x00", "\x01\x00\x00\x02" + "0123456789abcdef"} {
		for _, name := range []string{"system.posix_acl_access", "security.capability", "user.x"} {
			if got := Attribute(name, []byte(odd), to); string(got) != odd {
				t.Errorf("%s %q became %q", name, odd, got)
			}
		}
	}
}
