package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"brig/api"
)

// maxFile bounds a file of credentials, in bytes. Docker's holds settings of the command line too.
const maxFile = 4 << 20

// file is a file of credentials. What Brig does not know of it is kept as it stands.
type file struct {
	all     map[string]json.RawMessage
	auths   map[string]json.RawMessage // an entry each, by registry
	store   string                     // credsStore
	helpers map[string]string          // credHelpers
}

// entry is what a file holds of a registry: docker's AuthConfig.
type entry struct {
	Auth          string `json:"auth,omitempty"` // base64 of USER:PASSWORD
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// read reads a file; one that is not there is empty.
func read(path string) (*file, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return parse(nil)
	}
	if err != nil {
		return nil, api.Errorf(api.Unauthorized, "credentials: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("is larger than %d bytes", maxFile)
	}
	var parsed *file
	if err == nil {
		parsed, err = parse(b)
	}
	if err != nil {
		return nil, api.Errorf(api.InvalidArgument, "credentials: %s: %w", path, err)
	}
	return parsed, nil
}

// parse reads the text of a file. Entries are looked at when they are asked for: a bad one concerns its registry only.
func parse(b []byte) (*file, error) {
	f := &file{all: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	if len(bytes.TrimSpace(b)) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(b, &f.all); err != nil {
		return nil, err
	}
	if f.all == nil { // null
		f.all = map[string]json.RawMessage{}
	}
	for name, to := range map[string]any{"auths": &f.auths, "credsStore": &f.store, "credHelpers": &f.helpers} {
		if raw, ok := f.all[name]; ok {
			if err := json.Unmarshal(raw, to); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if f.auths == nil {
		f.auths = map[string]json.RawMessage{}
	}
	return f, nil
}

// normal is a key of a file as Brig compares it: host, or host/repository. Docker's keys may be whole addresses, of which the host counts.
func normal(key string) string {
	host, path := key, ""
	if rest, ok := cutScheme(key); ok {
		host, _, _ = strings.Cut(rest, "/")
	} else if before, after, ok := strings.Cut(key, "/"); ok {
		host, path = before, strings.TrimSuffix(after, "/")
		if path == "v1" || path == "v2" {
			path = ""
		}
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = hub
	}
	if path != "" {
		return host + "/" + path
	}
	return host
}

func cutScheme(s string) (string, bool) {
	if rest, ok := strings.CutPrefix(s, "https://"); ok {
		return rest, true
	}
	return strings.CutPrefix(s, "http://")
}

// held finds what the file itself has of a repository, the longest key first.
func (f *file) held(host, repo string) (Credential, error) {
	for want := strings.TrimSuffix(host+"/"+repo, "/"); ; {
		for _, k := range keysFor(f.auths, want) {
			c, err := decode(f.auths[k])
			if err != nil {
				return Credential{}, fmt.Errorf("%s: %w", k, err)
			}
			if !c.Empty() {
				return c, nil
			}
		}
		i := strings.LastIndexByte(want, '/')
		if i < 0 {
			return Credential{}, nil
		}
		want = want[:i]
	}
}

// keysFor lists the keys that mean want: the very word first, then the others in order.
func keysFor[V any](m map[string]V, want string) []string {
	var keys []string
	for k := range m {
		if normal(k) == want {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		if (a == want) != (b == want) {
			if a == want {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return keys
}

// helper is the program that keeps the credentials of a registry: NAME of docker-credential-NAME.
func (f *file) helper(host string) string {
	for _, k := range keysFor(f.helpers, host) {
		return f.helpers[k]
	}
	return f.store
}

// detect chooses a helper as docker does where its file names none and holds nothing: pass, else secretservice, where it is installed.
func (f *file) detect() {
	if f.store != "" || len(f.helpers) > 0 || len(f.auths) > 0 {
		return
	}
	name := "secretservice"
	if _, err := exec.LookPath("pass"); err == nil {
		name = "pass"
	}
	if _, err := exec.LookPath(helperPrefix + name); err == nil {
		f.store = name
	}
}

func decode(raw json.RawMessage) (Credential, error) {
	var e entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return Credential{}, err
	}
	c := Credential{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			b, err = base64.RawStdEncoding.DecodeString(e.Auth)
		}
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok || user == "" {
			return Credential{}, errors.New("auth is not the base64 of USER:PASSWORD")
		}
		c.Username, c.Password = user, strings.Trim(password, "\x00")
	}
	if c.IdentityToken != "" {
		c.Password = ""
	} else if c.Password == "" && c.RegistryToken == "" {
		return Credential{}, nil // a name alone proves nothing
	}
	return c, nil
}

func (f *file) put(key string, c Credential) error {
	e := entry{IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}
	if c.Username != "" || c.Password != "" {
		e.Auth = base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	}
	raw, err := json.Marshal(e)
	f.auths[key] = raw
	return err
}

// remove takes all entries of a registry out, in whatever form, but not those of its repositories.
func (f *file) remove(host string) bool {
	keys := keysFor(f.auths, host)
	for _, k := range keys {
		delete(f.auths, k)
	}
	return len(keys) > 0
}

// text is the file as docker writes it.
func (f *file) text() ([]byte, error) {
	for name, v := range map[string]any{"auths": f.auths, "credsStore": f.store} {
		if _, had := f.all[name]; !had && (v == "" || name == "auths" && len(f.auths) == 0) {
			continue
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		f.all[name] = raw
	}
	return json.MarshalIndent(f.all, "", "\t")
}

// change reads the file that login writes, has do change it, and puts the new one in its place: mode 0600, the owner of the old one, where
// a symbolic link pointed to. Other processes of Brig wait meanwhile.
func (s *Store) change(do func(*file) error) error {
	if s.main == "" {
		return api.Errorf(api.InvalidArgument, "no place for credentials: neither $DOCKER_CONFIG nor $HOME is set: use --authfile FILE")
	}
	path := s.main
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return fmt.Errorf("credentials: %s: lock: %w", dir, err)
	}
	f, err := read(path)
	if err != nil {
		return err
	}
	if s.docker {
		f.detect()
	}
	before, err := f.text()
	if err != nil {
		return err
	}
	if err := do(f); err != nil {
		return named(path, err)
	}
	after, err := f.text()
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	if err := replace(path, append(after, '\n')); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	return nil
}

// flock waits for the lock. It goes with the file.
func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if old, err := os.Stat(path); err == nil {
		if st, ok := old.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
		}
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
