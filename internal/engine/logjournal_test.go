package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
)

// TestJournalLogs reads what journalctl of systemd 252 writes, with the arguments that it takes. The real one is asked in the guest: test/guest/journal_test.go.
func TestJournalLogs(t *testing.T) {
	dir := t.TempDir()
	e := New(filepath.Join(dir, "root"), filepath.Join(dir, "state"), "")
	c := api.Container{ID: id.New(), Name: "web", Spec: api.ContainerSpec{Log: api.LogConfig{Driver: api.LogJournald}}}
	if err := e.meta.CreateContainer(c, atomicfile.Volatile); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	read := func(o api.LogOptions) (text string, err error) {
		err = e.Logs(t.Context(), "web", o, func(l api.LogEntry) error {
			text += l.Time.Format("05.000000 ") + l.Stream + " " + string(l.Line)
			return nil
		})
		return text, err
	}
	if _, err := read(api.LogOptions{Tail: -1}); api.KindOf(err) != api.Unsupported || !strings.Contains(err.Error(), "journalctl reads, and that is not installed") {
		t.Errorf("without journalctl: %v", err)
	}
	script := "#!/bin/sh\necho \"$@\" >>" + dir + "/asked\n[ \"$1\" = --sync ] && exit 0\n" + `/bin/cat <<'EOF'
{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1700000001000002","PRIORITY":"6","MESSAGE":"one"}
{"__CURSOR":"s=2","__REALTIME_TIMESTAMP":"1700000002000000","PRIORITY":"3","MESSAGE":[255,50],"_PID":"1"}
{"__CURSOR":"s=3","__REALTIME_TIMESTAMP":"1700000003000000","PRIORITY":"6","CONTAINER_PARTIAL_MESSAGE":"true","MESSAGE":"prompt"}
EOF
`
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	asked := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "asked"))
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(dir, "asked"))
		return strings.ReplaceAll(string(b), c.ID, "ID")
	}
	const all = "21.000002 stdout one\n22.000000 stderr \xff2\n23.000000 stdout prompt"
	for _, tc := range []struct {
		o           api.LogOptions
		want, asked string
	}{
		{api.LogOptions{Tail: -1}, all, "--output=json --all --quiet --no-pager CONTAINER_ID_FULL=ID\n"},
		{api.LogOptions{Tail: 2, Since: time.Unix(1700000001, 3000), Until: time.Unix(1700000002, 0)}, "22.000000 stderr \xff2\n",
			"--output=json --all --quiet --no-pager --lines=2 --since=@1700000001.000003 --until=@1700000002.000001 CONTAINER_ID_FULL=ID\n"},
		{api.LogOptions{Tail: -1, Follow: true}, all, "--sync\n--output=json --all --quiet --no-pager CONTAINER_ID_FULL=ID\n"}, // it has ended
	} {
		got, err := read(tc.o)
		if how := asked(); err != nil || got != tc.want || how != tc.asked {
			t.Errorf("%+v: %q, %v; asked %q", tc.o, got, err, how)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte("#!/bin/sh\necho no journal >&2; exit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := read(api.LogOptions{Tail: -1}); err == nil || !strings.Contains(err.Error(), "container web: its log: journalctl: exit status 1: no journal") {
		t.Error(err)
	}
}
