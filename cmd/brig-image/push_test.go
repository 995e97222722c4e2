package main

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"brig/internal/image/imagetest"
)

// TestPushKilled: a push that is ended in the middle of a layer, by SIGTERM and by SIGKILL, leaves no image in the registry, and the next
// one finishes it.
func TestPushKilled(t *testing.T) {
	g, server := imagetest.NewRegistry()
	defer server.Close()
	s := imagetest.New()
	d := s.PutImage(s.OCI(nil, imagetest.Layer("a", string(bytes.Repeat([]byte("x"), 4<<20)))), "1")
	g.Fill("from", s)
	root := filepath.Join(t.TempDir(), "root")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		to := fmt.Sprintf("docker://%s/to%d:1", g.Host, sig)
		request := fmt.Sprintf(`{"op":"copy","refs":["docker://%s/from:1","oci:%s"]}`, g.Host, root+"-layout")
		cmd, r, _, stderr := start(t, root, request)
		if reply, code := finish(t, cmd, r); code != 0 {
			t.Fatalf("%+v %s", reply, stderr)
		}
		request = fmt.Sprintf(`{"op":"copy","refs":["oci:%s","%s"]}`, root+"-layout", to)
		half, release := make(chan struct{}, 1), make(chan struct{})
		g.Hook = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPatch || r.ContentLength < 1<<20 {
				return false
			}
			half <- struct{}{}
			<-release
			return false
		}
		cmd, r, _, _ = start(t, root, request)
		<-half
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		reply, code := finish(t, cmd, r)
		if sig == syscall.SIGTERM && (code != 1 || !strings.Contains(reply.Error, "the copy was interrupted")) {
			t.Errorf("%d %+v", code, reply)
		}
		close(release)
		repo := strings.TrimSuffix(strings.TrimPrefix(to, "docker://"+g.Host+"/"), ":1")
		if len(g.Repo(repo).Manifests) > 0 {
			t.Errorf("%s: there is a manifest", sig)
		}
		g.Hook = nil
		cmd, r, _, stderr = start(t, root, request)
		if _, code := finish(t, cmd, r); code != 0 || g.Repo(repo).Tags["1"] != d.Digest {
			t.Errorf("%s: again: %d %s", sig, code, stderr)
		}
	}
}
