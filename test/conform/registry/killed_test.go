package registry

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// request makes one, and returns the answer with its body read.
func request(t *testing.T, method, url string, body io.Reader, headers ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

// TestKilled kills the server in the middle of pushes, ten times: what it said it had is there afterwards, an upload goes on where it
// stopped, nothing half is visible.
func TestKilled(t *testing.T) {
	gated(t)
	s := serve(t)
	data := make([]byte, 8<<20)
	r := rand.NewChaCha8([32]byte{1})
	for round := range 10 {
		r.Read(data)
		d := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		base := "http://" + s.address
		resp, _, err := request(t, "POST", base+"/v2/killed/app/blobs/uploads/", nil)
		if err != nil || resp.StatusCode != 202 {
			t.Fatal(resp, err)
		}
		upload := resp.Header.Get("Location")
		// One part arrives whole, of the next the server sees some.
		part := 1 << 20
		resp, _, err = request(t, "PATCH", base+upload, bytes.NewReader(data[:part]), "Content-Range", fmt.Sprintf("0-%d", part-1))
		if err != nil || resp.StatusCode != 202 {
			t.Fatal(resp, err)
		}
		pr, pw := io.Pipe()
		broken := make(chan error, 1)
		go func() {
			_, _, err := request(t, "PATCH", base+upload, pr)
			pr.CloseWithError(io.ErrClosedPipe)
			broken <- err
		}()
		sent := part
		for n := range round + 1 {
			m, err := pw.Write(data[sent : sent+100000+n])
			sent += m
			if err != nil {
				break
			}
		}
		small := []byte("acknowledged in round " + strconv.Itoa(round))
		sd := fmt.Sprintf("sha256:%x", sha256.Sum256(small))
		resp, b, err := request(t, "POST", base+"/v2/killed/app/blobs/uploads/?digest="+sd, bytes.NewReader(small))
		if err != nil || resp.StatusCode != 201 {
			t.Fatalf("%v %v %s", resp, err, b)
		}
		s.kill()
		pw.Close()
		if err := <-broken; err == nil {
			t.Fatal("the request went well without a server")
		}

		s.start(t)
		base = "http://" + s.address
		if resp, b, err := request(t, "GET", base+"/v2/killed/app/blobs/"+sd, nil); err != nil || !bytes.Equal(b, small) {
			t.Errorf("round %d: what was acknowledged: %v, %v, %q", round, resp, err, b)
		}
		if resp, _, err := request(t, "HEAD", base+"/v2/killed/app/blobs/"+d, nil); err != nil || resp.StatusCode != 404 {
			t.Errorf("round %d: half a blob is there: %v %v", round, resp, err)
		}
		resp, _, err = request(t, "GET", base+upload, nil)
		if err != nil || resp.StatusCode != 204 {
			t.Fatalf("round %d: the upload is gone: %v %v", round, resp, err)
		}
		last, err := strconv.Atoi(strings.TrimPrefix(resp.Header.Get("Range"), "0-"))
		if err != nil || last+1 < part || last+1 > sent {
			t.Fatalf("round %d: %s is there, sent %d", round, resp.Header.Get("Range"), sent)
		}
		resp, b, err = request(t, "PUT", base+upload+"?digest="+d, bytes.NewReader(data[last+1:]), "Content-Range", fmt.Sprintf("%d-%d", last+1, len(data)-1))
		if err != nil || resp.StatusCode != 201 {
			t.Fatalf("round %d: %v %v %s", round, resp, err, b)
		}
		if _, b, err := request(t, "GET", base+"/v2/killed/app/blobs/"+d, nil); err != nil || !bytes.Equal(b, data) {
			t.Errorf("round %d: %d bytes, %v", round, len(b), err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(s.root, "registry/killed/app/_upload/*")); len(left) > 0 {
		t.Errorf("uploads are left: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(s.root, "content/ingest/*")); len(left) > 0 {
		t.Errorf("half blobs are left: %v", left)
	}
}

// TestCrowd pushes and pulls the same blobs from many clients at a time. The server's memory stays small whatever the blobs' size, and
// afterwards it has no more open files than before.
func TestCrowd(t *testing.T) {
	gated(t)
	s := serve(t)
	base := "http://" + s.address + "/v2/"
	const size, clients = 64 << 20, 8
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(data)
	d := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			repo := fmt.Sprintf("%scrowd/r%d/", base, i%2)
			var url string
			if i%4 < 2 { // at once
				url = repo + "blobs/uploads/?digest=" + d
				if resp, b, err := request(t, "POST", url, bytes.NewReader(data)); err != nil || resp.StatusCode != 201 {
					t.Errorf("%d: %v %v %s", i, resp, err, b)
					return
				}
			} else { // in two
				resp, _, err := request(t, "POST", repo+"blobs/uploads/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				url = strings.TrimSuffix(base, "/v2/") + resp.Header.Get("Location")
				if resp, b, err := request(t, "PATCH", url, bytes.NewReader(data)); err != nil || resp.StatusCode != 202 {
					t.Errorf("%d: %v %v %s", i, resp, err, b)
					return
				}
				if resp, b, err := request(t, "PUT", url+"?digest="+d, nil); err != nil || resp.StatusCode != 201 {
					t.Errorf("%d: %v %v %s", i, resp, err, b)
					return
				}
			}
			h := sha256.New()
			resp, err := http.Get(repo + "blobs/" + d)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if _, err := io.Copy(h, resp.Body); err != nil || fmt.Sprintf("sha256:%x", h.Sum(nil)) != d {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	http.DefaultClient.CloseIdleConnections()
	if peak := status(t, s, "VmHWM"); peak > 100<<10 {
		t.Errorf("the server had %d kB in memory, for %d blobs of %d MB at a time", peak, clients, size>>20)
	} else {
		t.Logf("peak memory: %d kB", peak)
	}
	var open int
	for range 50 {
		if open = descriptors(t, s); open <= 12 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if open > 12 {
		t.Errorf("%d files are open with no client there", open)
	}
}

// status reads a number of /proc/PID/status.
func status(t *testing.T, s *server, key string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key+":" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no " + key)
	return 0
}

func descriptors(t *testing.T, s *server) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
