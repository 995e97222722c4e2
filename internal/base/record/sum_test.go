package record

import "testing"

func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"sum":"3fd41eced0439681","storeLimit":31457280}`))
	f.Add([]byte(`{"sum":"3fd4`))
	f.Fuzz(func(t *testing.T, b []byte) {
		signed := Sign(b)
		if err := Verify(signed); err != nil && Signed(signed) {
			t.Errorf("%q: %v", signed, err)
		}
		_ = Verify(b)
	})
}
