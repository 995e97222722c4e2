package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"brig/api"
)

// TestGroups: in a group, as at the top, only the command that was asked for is made, and each is docker's.
func TestGroups(t *testing.T) {
	for line, want := range map[string]string{
		"image ls": "ls", "image list": "ls", "image rmi x": "rm", "--root /x image inspect x": "inspect", "image frob": "", "container ps -a": "ls", "container run -it image": "run",
	} {
		a := &app{}
		root := &cobra.Command{Use: "brig"}
		a.addCommands(root, strings.Fields(line))
		var made []string
		for _, c := range root.Commands()[0].Commands() {
			made = append(made, c.Name())
		}
		if got := strings.Join(made, " "); got != want || len(root.Commands()) != 1 {
			t.Errorf("%q made %q, want %q", line, got, want)
		}
	}
	for group, want := range map[string]string{
		"image":     "history import inspect load ls pull rm save tag untag",
		"container": "attach commit create exec export inspect kill logs ls rm run start stop wait",
	} {
		for _, line := range []string{group, "help", "__complete " + group} {
			a := &app{}
			root := &cobra.Command{Use: "brig"}
			a.addCommands(root, strings.Fields(line))
			i := slices.IndexFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == group })
			var made []string
			for _, c := range root.Commands()[i].Commands() {
				made = append(made, c.Name())
			}
			for name := range strings.FieldsSeq(want) {
				if !slices.Contains(made, name) {
					t.Errorf("%q: no %s %s", line, group, name)
				}
			}
		}
	}
	f := house()
	brig(t, f, "image", "ls", "-q", "debian").wants(t, 0, "111111111111\n")
	brig(t, f, "container", "ls", "-q", "--filter", "name=web").wants(t, 0, shortID(testID)+"\n")
	brig(t, f, "image", "inspect", "-f", "{{.Os}}", "web").complains(t, 1, "brig: no such image: web\n")
	brig(t, f, "container", "inspect", "debian:12").complains(t, 1, "brig: no such container: debian:12\n")
	brig(t, f, "container", "frob").complains(t, 1, "brig: unknown command: brig container frob\n")
}

func TestHistoryOutput(t *testing.T) {
	at := func(d time.Duration) *time.Time { m := time.Now().Add(-d); return &m }
	f := house()
	f.detail.History = []imagespec.History{
		{Created: at(30 * 24 * time.Hour), CreatedBy: "/bin/sh -c #(nop) ADD file:0123456789abcdef0123456789abcdef in / "},
		{Created: at(2 * time.Hour), CreatedBy: "ENV A=1", EmptyLayer: true},
		{Created: at(time.Hour), CreatedBy: "RUN \x1b[31mred\n\ttabbed", Comment: "buildkit.dockerfile.v0"},
	}
	brig(t, f, "history", "debian:12").wants(t, 0, `IMAGE          CREATED             CREATED BY                                      SIZE      COMMENT
111111111111   About an hour ago   RUN  [31mred  tabbed                            512kB     buildkit.dockerfile.v0
<missing>      2 hours ago         ENV A=1                                         0B        
<missing>      4 weeks ago         /bin/sh -c #(nop) ADD file:0123456789abcdef0…   116MB     
`)
	brig(t, f, "history", "-q", "debian:12").wants(t, 0, "111111111111\n<missing>\n<missing>\n")
	brig(t, f, "history", "--no-trunc", "--human=false", "--format", "{{.ID}} {{.Size}} {{.CreatedBy}}", "debian:12").wants(t, 0, "sha256:"+strings.Repeat("1", 64)+" 512345 RUN  [31mred  tabbed\n"+
		"<missing> 0 ENV A=1\n<missing> 116000000 /bin/sh -c #(nop) ADD file:0123456789abcdef0123456789abcdef in / \n")
	brig(t, f, "history", "-H=false", "--format", "{{.CreatedSince}}", "debian:12").wants(t, 0, f.detail.History[2].Created.Local().Format(time.RFC3339)+"\n"+
		f.detail.History[1].Created.Local().Format(time.RFC3339)+"\n"+f.detail.History[0].Created.Local().Format(time.RFC3339)+"\n")
	// A config that tells of fewer steps than there are layers, or of more.
	f.detail.History = nil
	brig(t, f, "history", "--format", "{{.ID}} {{.CreatedSince}} {{.Size}}", "debian:12").wants(t, 0, "111111111111 N/A 512kB\n<missing> N/A 116MB\n")
	f.detail.History = make([]imagespec.History, 3)
	brig(t, f, "history", "--format", "{{.Size}}", "debian:12").wants(t, 0, "0B\n512kB\n116MB\n")
	brig(t, f, "history", "nothing").complains(t, 1, "brig: no image nothing\n")
}

func TestImportRequests(t *testing.T) {
	for line, want := range map[string]api.TransferRequest{
		"a.tar":         {Op: "import", File: "a.tar"},
		"- x:1":         {Op: "import", Refs: []string{"x:1"}},
		"https://h/a x": {Op: "import", File: "https://h/a", Refs: []string{"x"}},
		"-c CMD=1 --change A=2 -m text --platform linux/arm64 a.tar": {Op: "import", File: "a.tar", Changes: []string{"CMD=1", "A=2"}, Message: "text", Platform: "linux/arm64"},
	} {
		f := &fake{reply: api.TransferReply{Images: []api.Image{{ID: "sha256:1"}}}}
		brig(t, f, append([]string{"import"}, strings.Fields(line)...)...).wants(t, 0, "sha256:1\n")
		got := f.request
		if got.File != want.File || !slices.Equal(got.Refs, want.Refs) || !slices.Equal(got.Changes, want.Changes) || got.Message != want.Message || got.Platform != want.Platform || got.Op != want.Op {
			t.Errorf("%s: %+v", line, got)
		}
	}
	brig(t, &fake{}, "import", "").complains(t, 1, "brig: the source is empty")
	brig(t, &fake{}, "import").complains(t, 1, "brig: 'brig import' requires at least 1 and at most 2 arguments")
	brig(t, &fake{}, "import", "--platform", "///", "x").complains(t, 125, "brig: invalid argument")
	brig(t, &fake{err: errors.New("why")}, "import", "x").complains(t, 1, "progress\nbrig: why\n")
}

func TestCommitExportUntag(t *testing.T) {
	f := &fake{fails: map[string]error{"bad": errors.New("why")}}
	id := "sha256:" + testID + "\n"
	brig(t, f, "commit", "web").wants(t, 0, id)
	brig(t, f, "commit", "-a", "me", "-m", "text", "-c", "CMD x", "-c", "ENV a=b", "-p=false", "web", "img:1").wants(t, 0, id)
	brig(t, f, "commit", "bad").complains(t, 1, "brig: why\n")
	brig(t, f, "commit", "a", "b", "c").complains(t, 1, "brig: 'brig commit' requires at least 1 and at most 2 arguments")
	brig(t, f, "export", "web").wants(t, 0, "archive")
	brig(t, f, "export", "-o", "x.tar", "web").wants(t, 0, "")
	brig(t, f, "export", "bad").complains(t, 1, "brig: why\n")
	brig(t, f, "untag", "img").wants(t, 0, "")
	brig(t, f, "untag", "img", "a:1", "b:2").wants(t, 0, "")
	brig(t, f, "untag").complains(t, 1, "brig: 'brig untag' requires at least 1 argument")
	want := []string{
		`commit web {Name: Author: Message: Changes:[] NoPause:false}`, `commit web {Name:img:1 Author:me Message:text Changes:[CMD x ENV a=b] NoPause:true}`,
		`commit bad {Name: Author: Message: Changes:[] NoPause:false}`, `export web ""`, `export web "x.tar"`, `export bad ""`, `untag img []`, `untag img ["a:1" "b:2"]`,
	}
	if !slices.Equal(f.calls, want) {
		t.Errorf("%q", f.calls)
	}
}

// TestImageShares: how much of an image others have too, and who uses it.
func TestImageShares(t *testing.T) {
	layer := func(id string, size int64) api.Layer { return api.Layer{DiffID: id, Size: size} }
	f := &fake{
		imgs: []api.Image{
			{Name: "docker.io/library/a:1", ID: "sha256:a", Layers: []api.Layer{layer("base", 1000), layer("a", 10)}},
			{Name: "docker.io/library/a:2", ID: "sha256:a", Layers: []api.Layer{layer("base", 1000), layer("a", 10)}},
			{Name: "docker.io/library/b:1", ID: "sha256:b", Layers: []api.Layer{layer("base", 1000), layer("b", 5)}},
			{Name: "docker.io/library/c:1", ID: "sha256:c", Layers: []api.Layer{layer("c", 7), layer("c", 7)}},
		},
		containers: []api.Container{{Image: "sha256:a"}, {Image: "sha256:a"}, {Image: "sha256:c"}},
	}
	brig(t, f, "images", "--format", "{{.Repository}} {{.SharedSize}} {{.UniqueSize}} {{.Containers}}").wants(t, 0, "a 1kB 10B 2\na 1kB 10B 2\nb 1kB 5B 0\nc 0B 14B 1\n")
	if r := brig(t, f, "images", "--format", "json", "c"); !strings.Contains(r.out, `"Containers":"1"`) {
		t.Error(r.out)
	}
	f.containers = nil
	f.err = nil
	brig(t, f, "images", "-a", "-q", "--filter", "before=nothing").complains(t, 1, "brig: no image nothing\n")
}
