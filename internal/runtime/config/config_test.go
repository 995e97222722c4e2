package config

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/jsonscan"
)

// reference is what encoding/json is asked to read: the sections for other systems may hold anything.
type reference struct {
	specs.Spec
	Solaris anything `json:"solaris"`
	Windows anything `json:"windows"`
	VM      anything `json:"vm"`
	ZOS     anything `json:"zos"`
	FreeBSD anything `json:"freebsd"`
}

type anything struct{}

func (*anything) UnmarshalJSON([]byte) error { return nil }

// same holds Decode and its relatives against encoding/json: both refuse, or both read the same.
func same(t *testing.T, data []byte) {
	t.Helper()
	ref := new(reference)
	want := json.Unmarshal(data, ref)
	got, err := Decode(data)
	compare(t, "Decode", data, got, &ref.Spec, err, want)

	p, r := new(specs.Process), new(specs.LinuxResources)
	want = json.Unmarshal(data, p)
	gotP, err := DecodeProcess(data)
	compare(t, "DecodeProcess", data, gotP, p, err, want)
	want = json.Unmarshal(data, r)
	gotR, err := DecodeResources(data)
	compare(t, "DecodeResources", data, gotR, r, err, want)

	var part struct {
		Process     *specs.Process
		Annotations map[string]string
		Linux       *struct{ Seccomp *specs.LinuxSeccomp }
	}
	want = json.Unmarshal(data, &part)
	gotPart, err := DecodePart(data)
	wantPart := &Part{Process: part.Process, Annotations: part.Annotations}
	if part.Linux != nil {
		wantPart.linux = &linuxPart{part.Linux.Seccomp}
	}
	compare(t, "DecodePart", data, gotPart, wantPart, err, want)
}

func compare(t *testing.T, name string, data []byte, got, want any, err, wantErr error) {
	t.Helper()
	if (err == nil) != (wantErr == nil) {
		t.Errorf("%s of %.300q: %v; encoding/json: %v", name, data, err, wantErr)
	}
	if err != nil && api.KindOf(err) != api.InvalidArgument {
		t.Errorf("%s: kind of %v is %q", name, err, api.KindOf(err))
	}
	if err == nil && wantErr == nil && !reflect.DeepEqual(got, want) {
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		t.Errorf("%s of %.300q\ngives %s\nwant  %s", name, data, g, w)
	}
}

func samples(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/samples/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d samples: %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		if out[filepath.Base(f)], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestSamples: what engines and runtimes write is read as encoding/json reads it, and cut off anywhere it is refused.
func TestSamples(t *testing.T) {
	for name, data := range samples(t) {
		same(t, data)
		spec, err := Decode(data)
		if err != nil || spec.Linux == nil || len(spec.Process.Args) == 0 || len(spec.Mounts) < 3 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data = []byte(strings.TrimSpace(string(data)))
		for n := 0; n < len(data); n += 1 + n/500 {
			if _, err := Decode(data[:n]); err == nil {
				t.Fatalf("%s: its first %d of %d bytes are no whole text", name, n, len(data))
			}
		}
	}
}

// TestSpecificationsOwnSamples: the samples in runtime-spec's schema tests, valid for the schema or not.
func TestSpecificationsOwnSamples(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-spec").Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("the samples lie in the module cache, and there is no go to say where")
	}
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "schema/test/config/*/*.json"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%d samples: %v", len(files), err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		same(t, data)
	}
}

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
		v.SetString("ä\"\\\x00\n<&>\u2028😀" + strings.Repeat("x", *n%5))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
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
	case reflect.Interface:
	default:
		panic("no value for a " + v.Type().String())
	}
}

// full is a configuration with every field set.
func full(t testing.TB) *specs.Spec {
	t.Helper()
	spec, n := new(specs.Spec), 0
	fill(reflect.ValueOf(spec).Elem(), &n)
	if n < 500 {
		t.Fatalf("only %d values", n)
	}
	return spec
}

// TestEveryField: nothing of the specification is left out but the sections for other systems.
func TestEveryField(t *testing.T) {
	spec := full(t)
	for _, indent := range []string{"", "\t"} {
		data, err := json.MarshalIndent(spec, "", indent)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		want := *spec
		want.Solaris, want.Windows, want.VM, want.ZOS, want.FreeBSD = nil, nil, nil, nil, nil
		if !reflect.DeepEqual(got, &want) {
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			t.Fatalf("got  %s\nwant %s", g, w)
		}
		same(t, data)
	}
}

// quirks are texts in which readers of JSON differ.
var quirks = []string{
	``, ` `, `null`, `nul`, `nulll`, `{}`, ` {} `, `{}x`, "{}\x00", `[]`, `"a"`, `1`, `true`, "\ufeff{}", `{"a"}`, `{"a":}`, `{,}`, `{"a":1,}`, `{"a":1 "b":2}`, `{a:1}`,
	// null
	`{"process":null,"mounts":null,"annotations":null,"hostname":null,"linux":{"resources":{"memory":{"limit":null}}}}`,
	`{"process":{"cwd":"/"},"process":null}`, `{"mounts":[null,{}],"annotations":{"a":null}}`, `{"process":{"user":null,"args":["a",null],"oomScoreAdj":null}}`,
	`{"process":{"user":{"uid":1},"user":null,"terminal":true,"terminal":null}}`,
	// twice
	`{"hostname":"a","hostname":"b","Hostname":"c"}`, `{"process":{"cwd":"/","args":["a"]},"process":{"args":["b","c"]}}`,
	`{"mounts":[{"source":"a","options":["x"]},{"source":"b"},{"source":"c"}],"mounts":[{"type":"t"}],"mounts":[{},{"type":"u"}]}`,
	`{"mounts":[{"source":"a"}],"mounts":[],"mounts":[{}]}`, `{"mounts":[{"source":"a"}],"mounts":null,"mounts":[{}]}`,
	`{"annotations":{"a":"1","b":"2"},"annotations":{"a":"3"}}`, `{"linux":{"rdma":{}},"linux":{"resources":{"rdma":{"a":{"hcaHandles":1},"a":{"hcaObjects":2}}}}}`,
	`{"linux":{"seccomp":{"defaultAction":"a"}},"linux":null,"linux":{}}`,
	`{"process":{"args":["a","b","c","d","e"]},"process":{"args":[null]},"process":{"args":[null,null,null,null,null,null]}}`,
	// names
	`{"HOSTNAME":"a"}`, `{"hostname":"a","HOSTNAME":"b"}`, `{"ho\u0073tname":"a"}`, `{"ho\u017ftname":"a"}`, "{\"hoſtname\":\"a\"}", "{\"linux\":{\"masKedPaths\":[\"a\"]}}", `{"hostname ":"a"}`, `{"":1}`,
	"{\"hostname\xff\":\"a\"}", "{\"annotations\":{\"\xff\":\"\xfe\",\"\\ud800\":\"\"}}",
	// strings
	`{"hostname":"\"\\\/\b\f\n\r\t\u00e4\uD83D\uDE00\ud83d\u0041\ude00\ud83dx\ud83d\ud83d\ude00"}`, `{"hostname":"\x"}`, `{"hostname":"\u12"}`, `{"hostname":"\u12G4"}`, `{"hostname":"\'"}`,
	"{\"hostname\":\"a\nb\"}", "{\"hostname\":\"a\x7fb\"}", "{\"hostname\":\"a\x1fb\"}", "{\"hostname\":\"\xe4\xf0\x9f\x98\xc3\xa4\xed\xa0\x80\xc0\x80\"}", `{"hostname":"a`, `{"hostname":"a\`, `{"hostname":"\u`, `{"hostname":1}`, `{"hostname":["a"]}`,
	// numbers
	`{"process":{"user":{"uid":4294967295}}}`, `{"process":{"user":{"uid":4294967296}}}`, `{"process":{"user":{"uid":-0}}}`, `{"process":{"user":{"uid":-1}}}`, `{"process":{"user":{"uid":1.0}}}`,
	`{"process":{"user":{"uid":1e2}}}`, `{"process":{"user":{"uid":01}}}`, `{"process":{"user":{"uid":"1"}}}`, `{"process":{"user":{"uid":+1}}}`, `{"process":{"user":{"uid":.5}}}`, `{"process":{"user":{"uid":1.}}}`,
	`{"process":{"user":{"uid":1e}}}`, `{"process":{"user":{"uid":-}}}`, `{"process":{"user":{"uid":0x1}}}`, `{"process":{"user":{"uid":00}}}`, `{"process":{"user":{"uid":true}}}`, `{"process":{"oomScoreAdj":-0}}`,
	`{"process":{"oomScoreAdj":-9223372036854775808}}`, `{"process":{"oomScoreAdj":-9223372036854775809}}`, `{"process":{"oomScoreAdj":9223372036854775807}}`, `{"process":{"oomScoreAdj":9223372036854775808}}`,
	`{"process":{"rlimits":[{"hard":18446744073709551615}]}}`, `{"process":{"rlimits":[{"hard":18446744073709551616}]}}`, `{"process":{"rlimits":[{"hard":99999999999999999999999}]}}`,
	`{"linux":{"resources":{"blockIO":{"weight":65535}}}}`, `{"linux":{"resources":{"blockIO":{"weight":65536}}}}`, `{"process":{"scheduler":{"nice":-2147483648,"priority":2147483647}}}`, `{"process":{"scheduler":{"nice":-2147483649}}}`,
	`{"linux":{"devices":[{"fileMode":438,"major":-1}]}}`, `{"linux":{"devices":[{"fileMode":-1}]}}`, `{"linux":{"devices":[{"fileMode":"0666"}]}}`,
	`{"x":-0.5e+10,"y":1E-2,"z":0.0}`, `{"x":1.e1}`, `{"x":-}`, `{"x":1e+}`,
	// what is skipped
	`{"windows":5,"vm":[{}],"solaris":"x","zos":null,"freebsd":{"jail":[]}}`, `{"windows":5x}`, `{"x":{"y":[1,"a",{"b":[[]]},true,false,null]}}`, `{"x":tru}`, `{"x":falsy}`, `{"x":[1,]}`, `{"x":[1 2]}`, `{"x":[}`, `{"x":{]}`, `{"x":'a'}`,
	`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":8,"minor":1,"weight":5,"LinuxBlockIODevice":{"major":9}}]}}}}`,
	`{"process":{"terminal":"true"}}`, `{"process":{"terminal":1}}`, `{"process":[]}`, `{"mounts":{}}`, `{"annotations":[]}`, `{"annotations":{"a":1}}`,
}

func TestQuirks(t *testing.T) {
	for _, q := range quirks {
		same(t, []byte(q))
	}
	for _, n := range []int{9998, 9999, 10000, 10001} { // encoding/json's limit of depth
		same(t, []byte(`{"x":`+strings.Repeat("[", n)+strings.Repeat("]", n)+`}`))
		same(t, []byte(`{"x":`+strings.Repeat(`{"x":`, n)+"1"+strings.Repeat("}", n)+`}`))
		same(t, []byte(strings.Repeat("[", n)))
	}
}

// TestLimits: a text may be neither long nor small and full of elements.
func TestLimits(t *testing.T) {
	pad := strings.Repeat(" ", jsonscan.MaxInput-2)
	if _, err := Decode([]byte("{}" + pad)); err != nil {
		t.Error(err)
	}
	if _, err := Decode([]byte("{} " + pad)); err == nil || err.Error() != "config.json: the text is over the limit of 16 MiB" {
		t.Error(err)
	}
	for field, element := range map[string]string{"mounts": "{}", "annotations": `"":""`} {
		open, end := "[", "]"
		if field == "annotations" {
			open, end = "{", "}"
		}
		data := []byte(`{"` + field + `":` + open + strings.Repeat(element+",", (jsonscan.MaxInput-64)/len(element+",")) + element + end + `}`)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Decode(data)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.HasPrefix(err.Error(), "config.json: "+field) || !strings.Contains(err.Error(), "64 MiB") {
			t.Error(err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 8*jsonscan.MaxMemory { // a list that grows is copied some times
			t.Errorf("%s: %d bytes were allocated", field, n)
		}
	}
}

// TestErrors: an error names the field, what is wanted, what is there instead, and where.
func TestErrors(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, tc := range []struct{ text, want string }{
		{`{"process":{"user":{"uid":"x"}}}`, `process.user.uid: a whole number from 0 to 4294967295 is wanted, not "x" (line 1, column 27)`},
		{"{\n\t\"process\": {\n\t\t\"user\": { \"uid\": -1 }\n}}", `process.user.uid: a whole number from 0 to 4294967295 is wanted, not -1 (line 3, column 20)`},
		{`{"process":{"oomScoreAdj":1.5}}`, `process.oomScoreAdj: a whole number from -9223372036854775808 to 9223372036854775807 is wanted, not 1.5 (line 1, column 27)`},
		{`{"linux":{"resources":{"blockIO":{"weight":65536}}}}`, `linux.resources.blockIO.weight: a whole number from 0 to 65535 is wanted, not 65536 (line 1, column 44)`},
		{`{"process":{"scheduler":{"nice":1e3}}}`, `process.scheduler.nice: a whole number from -2147483648 to 2147483647 is wanted, not 1e3 (line 1, column 33)`},
		{`{"linux":{"devices":[{},{"fileMode":"0666"}]}}`, `linux.devices[1].fileMode: a whole number from 0 to 4294967295 is wanted, not "0666" (line 1, column 37)`},
		{`{"hostname":5}`, `hostname: a string is wanted, not 5 (line 1, column 13)`},
		{`{"hostname":true}`, `hostname: a string is wanted, not true (line 1, column 13)`},
		{`{"hostname":{}}`, `hostname: a string is wanted, not an object (line 1, column 13)`},
		{`{"process":{"args":["a",["b"]]}}`, `process.args[1]: a string is wanted, not a list (line 1, column 25)`},
		{`{"process":{"args":"sh"}}`, `process.args: a list is wanted, not "sh" (line 1, column 20)`},
		{`{"process":{"terminal":"yes"}}`, `process.terminal: true or false is wanted, not "yes" (line 1, column 24)`},
		{`{"process":[]}`, `process: an object is wanted, not a list (line 1, column 12)`},
		{`{"annotations":{"org.example.a":"x","org.example/b":1}}`, `annotations["org.example/b"]: a string is wanted, not 1 (line 1, column 53)`},
		{`{"annotations":{"a\u001b[m":1}}`, `annotations["a\x1b[m"]: a string is wanted, not 1 (line 1, column 29)`},
		{`{"annotations":{"` + long + `":1}}`, `annotations["` + long[:40] + `"]: a string is wanted, not 1 (line 1, column 120)`},
		{`{"mounts":"` + long + `"}`, `mounts: a list is wanted, not a string that begins with "` + long[:40] + `" (line 1, column 11)`},
		{`{"hostname":"ä","mounts":"\u00e4\u001b"}`, `mounts: a list is wanted, not "ä\x1b" (line 1, column 26)`},
		{`[]`, `an object is wanted, not a list (line 1, column 1)`},
		{``, `an object is wanted, not the end of the text (line 1, column 1)`},
		{"{\n", `a name in quotes or } is wanted, not the end of the text (line 2, column 1)`},
		{`{"process":{"args":["a" "b"]}}`, `process.args: a comma or ] is wanted, not "\"" (line 1, column 25)`},
		{`{"process":{"cwd":"/","args":["a",]}}`, `process.args[1]: a string is wanted, not "]" (line 1, column 35)`},
		{`{"process":{"cwd":"/",}}`, `process: a name in quotes is wanted, not "}" (line 1, column 23)`},
		{`{"process":{"cwd" "/"}}`, `process: a colon is wanted, not "\"" (line 1, column 19)`},
		{`{"process":{"cwd":"/" "env":[]}}`, `process: a comma or } is wanted, not "\"" (line 1, column 23)`},
		{`{'process':1}`, `a name in quotes or } is wanted, not "'" (line 1, column 2)`},
		{`{"a":[1,2`, `a[1]: a comma or ] is wanted, not the end of the text (line 1, column 10)`},
		{`{"a":tru}`, `a: true is wanted, not "}" (line 1, column 9)`},
		{`{"a":01}`, `a: a comma or } is wanted, not "1" (line 1, column 7)`},
		{`{"a":-x}`, `a: a digit is wanted, not "x" (line 1, column 7)`},
		{`{"a":}`, `a: a value is wanted, not "}" (line 1, column 6)`},
		{`{"hostname":"a`, `hostname: a closing quote is wanted, not the end of the text (line 1, column 15)`},
		{`{"hostname":"a\x"}`, `hostname: there is no such escape in JSON: \x (line 1, column 15)`},
		{`{"hostname":"\u12x4"}`, `hostname: a hexadecimal digit is wanted, not "x" (line 1, column 18)`},
		{"{\"hostname\":\"a\nb\"}", `hostname: a control character in a string must be written as an escape: \u000a (line 1, column 15)`},
		{`{} {}`, `the end of the text is wanted, not "{" (line 1, column 4)`},
		{"{}\x00", `the end of the text is wanted, not "\x00" (line 1, column 3)`},
		{"\ufeff{}", `an object is wanted, not "\ufeff" (line 1, column 1)`},
		{`{"a":` + strings.Repeat("[", 10001), `a` + strings.Repeat("[0]", 67) + `…: objects and lists stand in each other deeper than 10000 (line 1, column 10005)`},
	} {
		_, err := Decode([]byte(tc.text))
		if err == nil || err.Error() != "config.json: "+tc.want || api.KindOf(err) != api.InvalidArgument {
			t.Errorf("%.80s\n got %v\nwant config.json: %s", tc.text, err, tc.want)
		}
	}
	if _, err := DecodeProcess([]byte(`{"user":5}`)); err == nil || err.Error() != "user: an object is wanted, not 5 (line 1, column 9)" || api.KindOf(err) != api.InvalidArgument {
		t.Error(err)
	}
	if _, err := DecodeResources([]byte(`{"pids":{"limit":"5"}}`)); err == nil || !strings.HasPrefix(err.Error(), "pids.limit: a whole number from -9223372036854775808 ") || api.KindOf(err) != api.InvalidArgument {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, data := range samples(f) {
		f.Add(data)
	}
	for _, q := range quirks {
		f.Add([]byte(q))
	}
	data, err := json.Marshal(full(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) { same(t, data) })
}

// FuzzFields mutates what a value is, in a text that stays well formed: most changes of FuzzDecode fail at the syntax.
func FuzzFields(f *testing.F) {
	names := slices.Concat(specNames[:], processNames[:], linuxNames[:], linuxResourcesNames[:], linuxSeccompNames[:])
	f.Add([]byte{0, 1, 2, 3}, "a", int64(5))
	f.Fuzz(func(t *testing.T, ops []byte, str string, num int64) {
		i := 0
		next := func() int {
			if i++; i > len(ops) {
				return 0
			}
			return int(ops[i-1])
		}
		var value func(depth int) any
		value = func(depth int) any {
			switch kind := next() % 8; {
			case depth > 6 || kind == 0:
				return str
			case kind == 1:
				return num
			case kind == 2:
				return nil
			case kind == 3:
				return num%2 == 0
			case kind == 4:
				list := []any{}
				for range next() % 4 {
					list = append(list, value(depth+1))
				}
				return list
			default:
				object := map[string]any{}
				for range next() % 5 {
					name := names[next()%len(names)]
					object[name] = value(depth + 1)
				}
				return object
			}
		}
		data, err := json.Marshal(value(0))
		if err != nil {
			t.Fatal(err)
		}
		same(t, data)
	})
}
