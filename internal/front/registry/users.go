package registry

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"brig/api"
	"brig/internal/base/policyfile"
)

const (
	maxUsersFile = 1 << 20 // bytes
	// maxCost keeps a file's hashes from taking minutes each; htpasswd's own limit is 17.
	maxCost = 17
	// remembered is how many verified passwords are known without bcrypt, which takes as long as a client's ten requests.
	remembered = 1024
	// checks is how many passwords are verified at a time.
	checks = 2
)

// Users are the names and passwords of a file as htpasswd -B writes it. When the file changes, it is read again.
type Users struct {
	path string
	log  func(format string, args ...any)
	turn chan struct{} // of checks
	key  [32]byte      // for what is remembered: no table of passwords lies in memory

	mu     sync.Mutex // guards what follows
	read   string     // stamp of the file that was read last
	hashes map[string][]byte
	known  map[[sha256.Size]byte]bool
}

// ReadUsers reads the file. log is told when it cannot be read later: then nobody new is let in.
func ReadUsers(path string, log func(format string, args ...any)) (*Users, error) {
	u := &Users{path: path, log: log, turn: make(chan struct{}, checks)}
	if _, err := rand.Read(u.key[:]); err != nil {
		return nil, err
	}
	return u, u.load()
}

// load reads the file if it is another than the one that was read last.
func (u *Users) load() error {
	f, err := os.Open(u.path)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := policyfile.StampOf(f)
	if err != nil {
		return err
	}
	if u.hashes != nil && now == u.read {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxUsersFile+1))
	if err != nil {
		return err
	}
	hashes, err := parseUsers(b)
	if err != nil {
		return api.Errorf(api.InvalidArgument, "%s: %w", u.path, err)
	}
	u.read, u.hashes, u.known = now, hashes, map[[sha256.Size]byte]bool{}
	return nil
}

// parseUsers reads lines NAME:HASH. Hashes of another kind than bcrypt are broken in no time, and refused.
func parseUsers(b []byte) (map[string][]byte, error) {
	if len(b) > maxUsersFile {
		return nil, fmt.Errorf("longer than the %d bytes that it may have", maxUsersFile)
	}
	hashes := map[string][]byte{}
	n := 0
	for line := range bytes.Lines(b) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(string(line), ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("line %d: want NAME:HASH", n)
		}
		switch cost, err := bcrypt.Cost([]byte(hash)); {
		case err != nil:
			return nil, fmt.Errorf("line %d: the hash of %s is not bcrypt's: make it with htpasswd -B", n, quote(name))
		case cost > maxCost:
			return nil, fmt.Errorf("line %d: the hash of %s has cost %d, more than %d", n, quote(name), cost, maxCost)
		}
		hashes[name] = []byte(hash)
	}
	return hashes, nil
}

// nobody is a hash that no password has, for names that are not known: they take as long as others.
const nobody = "$2a$10$abcdefghijklmnopqrstuuK4nvXJMGTVGpMSfzqg7P7GFWXd7YvJS"

// allow reports whether a request has a name and its password.
func (u *Users) allow(req *http.Request) bool {
	name, password, ok := req.BasicAuth()
	if !ok || len(password) > 72 { // bcrypt's limit
		return false
	}
	mac := hmac.New(sha256.New, u.key[:])
	fmt.Fprintf(mac, "%d:%s:%s", len(name), name, password)
	var sum [sha256.Size]byte
	mac.Sum(sum[:0])

	u.mu.Lock()
	if err := u.load(); err != nil {
		u.hashes, u.known = nil, nil // who was taken out of a file that is being written must not stay in; the next request reads it again
		u.log("users: %v", err)
	}
	read, known := u.read, u.known[sum]
	hash, exists := u.hashes[name]
	u.mu.Unlock()
	if known {
		return true
	}
	if !exists {
		hash = []byte(nobody)
	}
	select {
	case u.turn <- struct{}{}:
	case <-req.Context().Done():
		return false
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	<-u.turn
	if err != nil || !exists {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.read == read && u.known != nil {
		if len(u.known) >= remembered {
			clear(u.known)
		}
		u.known[sum] = true
	}
	return true
}
