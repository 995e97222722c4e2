package software

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// packages are what the containers' apt-get installs, and what these need that a minimal Debian has not: a program, one whose scripts choose
// alternatives, and one whose scripts add a user.
var packages = []string{"hello", "netcat-openbsd", "libbsd0", "uuid-runtime"}

func packageFolder() string { return filepath.Join(cache, "packages") }

// packageFile is where a package lies in the cache, under the name that apt-get gave it.
func packageFile(name string) (string, error) {
	files, err := filepath.Glob(filepath.Join(packageFolder(), name+"_*.deb"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("package %s is not in %s", name, packageFolder())
	}
	if err != nil {
		return "", err
	}
	return files[0], nil
}

// fetchPackages downloads the packages that are not in the cache.
func fetchPackages() error {
	if err := os.MkdirAll(packageFolder(), 0o755); err != nil {
		return err
	}
	for _, name := range packages {
		if _, err := packageFile(name); err == nil {
			continue
		}
		cmd := exec.Command("apt-get", "-q", "download", name)
		cmd.Dir = packageFolder()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get download %s: %w: %s", name, err, out)
		}
	}
	return nil
}

// serveRepository serves the packages on all addresses of the namespace, and returns the port. Like a mirror it has an index, whose hash is in a Release file.
func serveRepository(t *testing.T) (port string) {
	t.Helper()
	var index bytes.Buffer
	mux := http.NewServeMux()
	for _, name := range packages {
		deb, err := packageFile(name)
		if err != nil {
			t.Fatal(err)
		}
		control, err := exec.Command("dpkg-deb", "-f", deb).Output()
		if err != nil {
			t.Fatalf("dpkg-deb -f %s: %v", deb, err)
		}
		data, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&index, "%sFilename: ./%s.deb\nSize: %d\nSHA256: %x\n\n", control, name, len(data), sha256.Sum256(data))
		mux.HandleFunc("/"+name+".deb", func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	}
	release := fmt.Sprintf("Suite: test\nDate: %s\nSHA256:\n %x %d Packages\n", time.Now().UTC().Format(time.RFC1123), sha256.Sum256(index.Bytes()), index.Len())
	mux.HandleFunc("/Packages", func(w http.ResponseWriter, _ *http.Request) { w.Write(index.Bytes()) })
	mux.HandleFunc("/Release", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, release) })
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	_, port, _ = net.SplitHostPort(listener.Addr().String())
	return port
}

// aptGet installs packages and takes one away again, as root with the usual rights.
func aptGet(p *place, port string) {
	script := `set -e
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d
echo "deb [trusted=yes] http://repository:` + port + `/ ./" >/etc/apt/sources.list
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q install -y --no-install-recommends hello netcat-openbsd uuid-runtime
hello
id -u uuidd
readlink -f /bin/nc
apt-get -q purge -y hello
dpkg --audit
! test -e /usr/bin/hello
echo consistent`
	host := "host-gateway"
	if p.host {
		host = "127.0.0.1"
	}
	out := p.run("--rm", "--add-host", "repository:"+host, image, "bash", "-c", script)
	for _, want := range []string{"\nHello, world!\n", "/bin/nc.openbsd\n", "\nconsistent"} {
		if !strings.Contains(out, want) {
			p.Errorf("apt-get: no %q in\n%s", want, out)
		}
	}
}
