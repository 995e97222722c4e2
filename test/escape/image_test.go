package escape

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLayersStayInside: layers whose links, names and whiteouts lead out of the layer (2026-17106, 2025-47290, 2021-32760).
func TestLayersStayInside(t *testing.T) {
	for _, c := range []struct {
		name   string
		layers func(out string) [][]entry
		weak   string
	}{
		{"a file behind a link", func(out string) [][]entry {
			return [][]entry{{asLink("way", out), asFile("way/new", "x")}}
		}, "unpack"},
		{"a file behind a relative link", func(out string) [][]entry {
			return [][]entry{{asLink("way", strings.Repeat("../", 40)+out[1:]), asFile("way/new", "x")}}
		}, "unpack"},
		{"a folder's mode behind a link", func(out string) [][]entry {
			e := asDir("way/")
			e.Mode = 0o777
			return [][]entry{{asLink("up", filepath.Dir(out)), entry{tar.Header{Typeflag: tar.TypeDir, Name: "up/outside/", Mode: 0o777}, ""}, asLink("way", out), e}}
		}, "unpack"},
		{"a file over a file behind a link", func(out string) [][]entry {
			return [][]entry{{asLink("way", out), asFile("way/file", "overwritten")}}
		}, "unpack"},
		{"a hard link through a link", func(out string) [][]entry {
			return [][]entry{{asLink("way", out), asHard("mine", "way/file"), asFile("mine", "overwritten")}}
		}, ""},
		{"a hard link by an absolute name", func(out string) [][]entry {
			return [][]entry{{asHard("mine", out+"/file"), asFile("mine", "overwritten")}}
		}, ""},
		{"a hard link that climbs", func(out string) [][]entry {
			return [][]entry{{asHard("mine", strings.Repeat("../", 40)+out[1:]+"/file")}}
		}, ""},
		{"a hard link to a link", func(out string) [][]entry {
			e := asFile("mine", "overwritten")
			e.Mode = 0o777
			return [][]entry{{asLink("way", out+"/file"), asHard("mine", "way"), e}}
		}, ""},
		{"a folder that becomes a link", func(out string) [][]entry {
			return [][]entry{{asDir("a/"), asFile("a/x", "x"), asLink("a", out), asFile("a/new", "x")}}
		}, "unpack"},
		{"a link of the layer below", func(out string) [][]entry {
			return [][]entry{{asLink("way", out)}, {asFile("way/new", "x")}}
		}, ""},
		{"a whiteout behind a link", func(out string) [][]entry {
			return [][]entry{{asLink("way", out), asFile("way/.wh.gone", "")}}
		}, "unpack"},
		{"an opaque folder behind a link", func(out string) [][]entry {
			return [][]entry{{asLink("way", out), asFile("way/.wh..wh..opq", "")}}
		}, ""},
		{"a whiteout of the folder above", func(string) [][]entry { return [][]entry{{asFile("a/.wh...", ""), asFile(".wh..", "")}} }, ""},
		{"a name that climbs", func(string) [][]entry { return [][]entry{{asFile("../../../../../outside/new", "x")}} }, ""},
		{"a name that climbs later", func(string) [][]entry { return [][]entry{{asFile("a/../../../../../../outside/new", "x")}} }, ""},
		{"an absolute name", func(out string) [][]entry { return [][]entry{{asFile(out+"/new", "x")}} }, ""},
		{"links in a circle", func(string) [][]entry { return [][]entry{{asLink("a", "b"), asLink("b", "a"), asFile("a/new", "x")}} }, ""},
		{"the folder of the process", func(string) [][]entry {
			return [][]entry{{asLink("way", "/proc/self/cwd"), asFile("way/new", "x"), asLink("fd", "/proc/self/fd"), asFile("fd/1", "x")}}
		}, ""},
		{"a device that is written", func(string) [][]entry {
			return [][]entry{{entry{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o666}, ""}, asFile("pipe", "x")}}
		}, ""},
		{"times and attributes of a link", func(out string) [][]entry {
			e := asLink("way", out+"/file")
			e.ModTime, e.Uid = time.Unix(1, 0), 12345
			e.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y"}
			return [][]entry{{e}}
		}, ""},
		{"a path too long", func(string) [][]entry { return [][]entry{{asFile(strings.Repeat("a/", 3000)+"x", "x")}} }, ""},
		{"a name too long", func(string) [][]entry { return [][]entry{{asFile(strings.Repeat("a", 300), "x")}} }, ""},
		{"folders too deep", func(string) [][]entry { return [][]entry{{asFile(strings.Repeat("a/", 1500)+"x", "x")}} }, ""},
	} {
		make := func(p *place) []byte {
			var layers [][]byte
			for _, l := range c.layers(p.outside) {
				layers = append(layers, tarOf(t, l...))
			}
			return newBundle(t).image(nil, nil, layers...).tar("localhost/x:1")
		}
		p := newPlace(t)
		m := p.load(t, "", make(p))
		m.sound(t, c.name)
		t.Logf("%s: %s", c.name, m)
		if c.weak != "" && !testing.Short() {
			p := newPlace(t)
			if m := p.load(t, c.weak, make(p)); !m.out {
				t.Errorf("%s without %q shows nothing: %s", c.name, c.weak, m)
			}
		}
	}
}

// TestBrokenLayers: tars that lie about themselves end with a reason.
func TestBrokenLayers(t *testing.T) {
	nul := tarOf(t, asFile("file", "x"))
	copy(nul[:100], "a\x00../../x")
	size := tarOf(t, asFile("file", "x"))
	copy(size[124:136], "\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") // base 256
	negative := tarOf(t, asFile("file", "x"))
	copy(negative[124:136], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	octal := tarOf(t, asFile("file", "x"))
	copy(octal[124:136], "77777777777\x00") // 8 GiB, which do not come
	for _, b := range [][]byte{size, negative, octal} {
		chksum(b[:512])
	}
	whole := tarOf(t, asFile("file", strings.Repeat("x", 10000)))
	pax := paxTar("path", "a\x00b")
	for name, layer := range map[string][]byte{
		"a giant size": size, "a negative size": negative, "a size that does not come": octal, "cut short": whole[:5000], "noise": bytes.Repeat([]byte{0xa5}, 4096),
		"a NUL in a name": pax, "a giant number": paxTar("size", strings.Repeat("9", 400)), "a negative number": paxTar("size", "-5"),
		"a header of megabytes": paxTar("comment", strings.Repeat("x", 8<<20)), "a sparse map that lies": paxTar("GNU.sparse.map", "0,99999999999,1,1"), "nothing": {},
	} {
		p := newPlace(t)
		m := p.load(t, "", newBundle(t).image(nil, nil, layer).tar("localhost/x:1"))
		m.sound(t, name)
		if m.code == 0 && name != "nothing" && name != "a header of megabytes" {
			t.Errorf("%s was taken: %s", name, m)
		}
		t.Logf("%s: %s", name, m)
	}
}

// chksum sets a header's checksum.
func chksum(h []byte) {
	copy(h[148:156], "        ")
	n := 0
	for _, c := range h {
		n += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", n))
}

// paxTar is a tar of one empty file with a raw extended record.
func paxTar(key, value string) []byte {
	record := func(n int) string { return fmt.Sprintf("%d %s=%s\n", n, key, value) }
	n := len(record(0))
	for len(record(n)) != n {
		n = len(record(n))
	}
	data := record(n)
	head := func(name string, kind byte, size int) []byte {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00", size))
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		chksum(h)
		return h
	}
	b := append(head("pax", 'x', len(data)), data...)
	b = append(b, make([]byte, (512-len(data)%512)%512)...)
	b = append(b, head("file", '0', 0)...)
	return append(b, make([]byte, 1024)...)
}

// hostileImages are documents that lie, amplify or can be read in two ways.
func hostileImages(t *testing.T) map[string]*bundle {
	layer := tarOf(t, asFile("file", "x"))
	all := map[string]*bundle{}
	bend := func(name string, f func(b *bundle, m map[string]any)) {
		b := newBundle(t)
		all[name] = b.image(nil, func(m map[string]any) { f(b, m) }, layer)
	}
	first := func(m map[string]any) map[string]any { return m["layers"].([]any)[0].(map[string]any) }
	raw := func(name, mediaType, doc string) {
		b := newBundle(t).image(nil, nil, layer)
		b.target = b.put(mediaType, []byte(doc))
		all[name] = b
	}
	bend("both manifest and index", func(_ *bundle, m map[string]any) { m["manifests"] = []any{} })
	bend("another media type", func(_ *bundle, m map[string]any) { m["mediaType"] = ociIndex })
	bend("a digest that is a path", func(_ *bundle, m map[string]any) { first(m)["digest"] = "sha256:../../../../outside/file" })
	bend("a digest in capitals", func(_ *bundle, m map[string]any) { first(m)["digest"] = strings.ToUpper(first(m)["digest"].(string)) })
	bend("hex in capitals", func(_ *bundle, m map[string]any) { first(m)["digest"] = "sha256:" + strings.Repeat("A", 64) })
	bend("an unknown algorithm", func(_ *bundle, m map[string]any) { first(m)["digest"] = "md5:" + strings.Repeat("a", 32) })
	bend("a size too small", func(_ *bundle, m map[string]any) { first(m)["size"] = 3 })
	bend("a size too large", func(_ *bundle, m map[string]any) { first(m)["size"] = 1 << 40 })
	bend("a negative size", func(_ *bundle, m map[string]any) { first(m)["size"] = -1 })
	bend("a number without end", func(_ *bundle, m map[string]any) { first(m)["size"] = json.Number("1" + strings.Repeat("0", 5000)) })
	bend("a float", func(_ *bundle, m map[string]any) { first(m)["size"] = json.Number("1e3") })
	bend("a foreign layer", func(_ *bundle, m map[string]any) {
		first(m)["mediaType"], first(m)["urls"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", []string{"http://user:secret@127.0.0.1:1/x"}
	})
	bend("no layers at all, one diff ID", func(_ *bundle, m map[string]any) { m["layers"] = []any{} })
	raw("a million layers", ociManifest, `{"schemaVersion":2,"config":{},"layers":[`+strings.Repeat("{},", 1_000_000)+`{}]}`)
	raw("a million diff IDs", ociManifest, `{"schemaVersion":2,"config":{},"layers":[],"x":[`+strings.Repeat("0,", 1_900_000)+`0]}`)
	raw("a manifest too long", ociManifest, `{"schemaVersion":2,"a":"`+strings.Repeat("x", 5<<20)+`"}`)
	raw("nested without end", ociManifest, `{"schemaVersion":2,"config":`+strings.Repeat(`{"a":`, 500_000))
	raw("arrays without end", ociIndex, `{"schemaVersion":2,"manifests":`+strings.Repeat(`[`, 1_000_000))
	good := newBundle(t).image(nil, nil, layer)
	doc := string(good.blobs[good.target["digest"].(string)])
	raw("a key twice", ociManifest, strings.Replace(doc, `"layers"`, `"layers":[],"layers"`, 1))
	raw("a digest twice", ociManifest, strings.Replace(doc, `"digest"`, `"digest":"`+sum(nil)+`","digest"`, 1))
	raw("two documents", ociManifest, doc+doc)
	raw("no document", ociManifest, "")
	// An index of indexes, each naming the one below as often as it may: 1000^3 manifests of three small documents.
	tower := newBundle(t).image(nil, nil, layer)
	for range 4 {
		list := make([]any, 1000)
		for i := range list {
			list[i] = tower.target
		}
		tower.target = tower.put(ociIndex, map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": list})
	}
	all["a tower of indexes"] = tower
	wide := newBundle(t).image(nil, nil, layer)
	list := make([]any, 20_000)
	for i := range list {
		list[i] = wide.target
	}
	wide.target = wide.put(ociIndex, map[string]any{"schemaVersion": 2, "manifests": list})
	all["a wide index"] = wide
	return all
}

// TestHostileDocuments: none of them is taken, and why is said (2021-41190, 2024-3727, 2021-20291, 2021-21285, 2023-25153).
func TestHostileDocuments(t *testing.T) {
	for name, b := range hostileImages(t) {
		p := newPlace(t)
		m := p.load(t, "", b.tar("localhost/x:1"))
		m.sound(t, name)
		if m.code == 0 {
			t.Errorf("%s was taken", name)
		}
		t.Logf("%s: %s", name, m)
		if left, _ := filepath.Glob(filepath.Join(p.top, "root/image/*.json")); len(left) > 0 {
			t.Errorf("%s: %v", name, left)
		}
	}
	for name, weak := range map[string]string{"both manifest and index": "ambiguous", "a key twice": "ambiguous", "a digest twice": "ambiguous"} {
		if m := newPlace(t).load(t, weak, hostileImages(t)[name].tar("localhost/x:1")); m.code != 0 && name == "both manifest and index" {
			t.Errorf("%s is refused without %q too: %s", name, weak, m)
		}
	}
	p := newPlace(t)
	if m := p.load(t, "", newBundle(t).image(nil, nil, tarOf(t, asFile("file", "x"))).tar("localhost/x:1")); m.code != 0 {
		t.Errorf("an honest image: %s", m)
	}
}

// TestBombs: a few packed bytes that become many, and memory that a frame asks for (2023-25153).
func TestBombs(t *testing.T) {
	const many = 3 << 29
	var packed bytes.Buffer
	w, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	h := tar.Header{Name: "zeros", Mode: 0o644, Size: many}
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	for chunk, n := make([]byte, 1<<20), 0; n < many; n += len(chunk) {
		tw.Write(chunk)
	}
	tw.Close()
	w.Close()
	b := newBundle(t)
	b.image(nil, func(m map[string]any) {
		m["layers"] = []any{b.put(ociLayer+"+gzip", packed.Bytes())}
		m["config"] = b.put(ociConfig, map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{sum([]byte("whatever"))}}})
	})
	p := newPlace(t)
	m := p.load(t, "", b.tar("localhost/x:1"))
	m.sound(t, "gzip")
	if m.code == 0 || !strings.Contains(m.err, "bomb") {
		t.Errorf("gzip: %s", m)
	}
	if left, _ := filepath.Glob(filepath.Join(p.top, "root/snapshot/layer/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// The archive itself is packed, and unpacked into a spool of the store; with a smaller limit, to spare the disk.
	const env = "BRIG_MAX_UNPACKED=20M"
	small := gzipped(tarOf(t, asFile("zeros", strings.Repeat("\x00", 64<<20))))
	m = newPlace(t).load(t, "", small, env)
	m.sound(t, "packed archive")
	if m.code == 0 || !strings.Contains(m.err, "BRIG_MAX_UNPACKED") {
		t.Errorf("packed archive: %s", m)
	}
	if m := newPlace(t).load(t, "bombs", small, env); strings.Contains(m.err, "BRIG_MAX_UNPACKED") {
		t.Errorf("packed archive without \"bombs\": %s", m)
	}
	layer := tarOf(t, asFile("zeros", strings.Repeat("\x00", 64<<20)))
	for weak, word := range map[string]string{"": "BRIG_MAX_UNPACKED", "bombs": ""} {
		m := newPlace(t).load(t, weak, newBundle(t).image(nil, nil, layer).tar("localhost/x:1"), env)
		m.sound(t, "a layer of zeros")
		if (m.code == 0) != (weak == "bombs") || !strings.Contains(m.err, word) {
			t.Errorf("a layer of zeros without %q: %s", weak, m)
		}
	}
	// zstd: windows of 128 MiB in each of many layers, and 1.5 GB in a few kilobytes: blocks of RLE (RFC 8878, 3.1.1.2).
	layers := newBundle(t)
	layers.image(nil, func(m map[string]any) {
		list, ids := []any{}, []string{}
		for i := range 6 {
			head := tarOf(t, entry{tar.Header{Name: fmt.Sprint(i), Mode: 0o644}, ""})[:512]
			copy(head[124:136], fmt.Sprintf("%011o\x00", 300<<20))
			chksum(head)
			f := rleFrame(head, 300<<20, 0x88)
			list, ids = append(list, layers.put(ociLayer+"+zstd", f)), append(ids, sum(f))
		}
		m["layers"] = list
		m["config"] = layers.put(ociConfig, map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	})
	m = newPlace(t).load(t, "", layers.tar("localhost/x:1"))
	m.sound(t, "zstd")
	if m.code == 0 {
		t.Errorf("zstd: %s", m)
	}
	t.Logf("zstd: %s", m)
	m = newPlace(t).load(t, "", rleFrame(nil, 3<<29, 0x88))
	m.sound(t, "zstd archive")
	if m.code == 0 || !strings.Contains(m.err, "bomb") {
		t.Errorf("zstd archive: %s", m)
	}
}

// rleFrame is a zstd frame of head and n zeros: blocks of one byte each stand for 128 KiB.
func rleFrame(head []byte, n int, window byte) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, window}
	if h := len(head) << 3; h > 0 {
		b = append(append(b, byte(h), byte(h>>8), byte(h>>16)), head...)
	}
	for const128 := 128 << 10; n > 0; n -= const128 {
		last := 0
		if n <= const128 {
			last = 1
		}
		h := const128<<3 | 1<<1 | last
		b = append(b, byte(h), byte(h>>8), byte(h>>16), 0)
	}
	return b
}

// loadBundle brings an image into the store of all tests.
func loadBundle(t *testing.T, name string, b *bundle) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, b.tar(name), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "load", "-q", "-i", path)
}

// TestHostileConfigs: what an image's config says of folders, users and volumes leads to nothing of the host's (2022-23648, 2024-9676).
func TestHostileConfigs(t *testing.T) {
	binary, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.Mkdir(secret, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(secret, "secret"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 40) + secret[1:]
	base := []entry{{tar.Header{Name: "probe", Mode: 0o755}, string(binary)}, asLink("way", secret), asLink("up", "/"+up)}
	passwd := func(e ...entry) []entry { return append(append([]entry{}, base...), e...) }
	for name, c := range map[string]struct {
		config  map[string]any
		entries []entry
		fails   bool
	}{
		"a volume that climbs":        {map[string]any{"Volumes": map[string]any{"/" + up: map[string]any{}}}, base, false},
		"a volume at a link":          {map[string]any{"Volumes": map[string]any{"/way": map[string]any{}}}, base, false},
		"a volume at a link upwards":  {map[string]any{"Volumes": map[string]any{"/up": map[string]any{}}}, base, false},
		"a volume without a slash":    {map[string]any{"Volumes": map[string]any{"etc": map[string]any{}}}, base, false},
		"a volume at the root":        {map[string]any{"Volumes": map[string]any{"/": map[string]any{}}}, base, false},
		"a volume over /proc":         {map[string]any{"Volumes": map[string]any{"/proc": map[string]any{}}}, base, true},
		"a folder that climbs":        {map[string]any{"WorkingDir": "/" + up}, base, false},
		"a folder at a link":          {map[string]any{"WorkingDir": "/way"}, base, false},
		"the folder of a descriptor":  {map[string]any{"WorkingDir": "/proc/self/fd/7"}, base, true},
		"a user beyond numbers":       {map[string]any{"User": "4294967296"}, base, true},
		"a negative user":             {map[string]any{"User": "-1"}, base, true},
		"a user of many groups":       {map[string]any{"User": "0:0:0"}, base, true},
		"a user of a passwd pipe":     {map[string]any{"User": "nobody"}, passwd(asDir("etc/"), entry{tar.Header{Typeflag: tar.TypeFifo, Name: "etc/passwd", Mode: 0o666}, ""}), true},
		"a user of the host's passwd": {map[string]any{"User": "root"}, passwd(asDir("etc/"), asLink("etc/passwd", "/"+strings.Repeat("../", 40)+"etc/passwd")), true},
		"a user of a device":          {map[string]any{"User": "nobody"}, passwd(asDir("etc/"), asLink("etc/passwd", "/dev/zero")), true},
		"a user of a giant passwd":    {map[string]any{"User": "nobody"}, passwd(asDir("etc/"), asFile("etc/passwd", strings.Repeat("x:x:1:1::/:/\n", 1<<20))), true},
		"labels":                      {map[string]any{"Labels": map[string]string{"org.brig.user": "0", strings.Repeat("x", 100_000): "y", "nerdctl/log-uri": "binary:///bin/sh"}}, base, false},
		"a stop signal":               {map[string]any{"StopSignal": "SIG\x00EVIL"}, base, false},
		"no command":                  {map[string]any{"Cmd": []string{}}, base, true},
	} {
		config := map[string]any{"Cmd": []string{"/probe", "exe"}}
		for k, v := range c.config {
			config[k] = v
		}
		loadBundle(t, "localhost/hostile:1", newBundle(t).image(config, nil, tarOf(t, c.entries...)))
		r := brig(t, "run", "--rm", "--network", "none", "localhost/hostile:1")
		if strings.Contains(r.out, "of the host") || strings.Contains(r.err, "panic") || c.fails && r.code == 0 || r.code != 0 && r.err == "" {
			t.Errorf("%s: %s", name, r)
		}
		t.Logf("%s: %.300s", name, r)
	}
	if b, err := os.ReadFile(filepath.Join(secret, "secret")); err != nil || string(b) != "of the host" {
		t.Errorf("%s, %v", b, err)
	}
	if list, err := os.ReadDir(secret); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}
