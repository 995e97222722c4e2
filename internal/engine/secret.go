package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/lock"
	"brig/internal/base/record"
	"brig/internal/runtime/oci"
	"brig/internal/store/garbage"
)

// secretsDir is where docker and podman have secrets in a container.
const secretsDir = "/run/secrets"

// secretRecord is secret/NAME.json, 0600, with a checksum.
type secretRecord struct {
	api.Secret
	Data []byte `json:"data"`
}

func (e *Engine) secretDir() string             { return filepath.Join(e.root, "secret") }
func (e *Engine) secretPath(name string) string { return filepath.Join(e.secretDir(), name+".json") }

// CreateSecret keeps data under a name; with replace in place of what has the name already.
func (e *Engine) CreateSecret(_ context.Context, s api.Secret, data []byte, replace bool) (api.Secret, error) {
	if err := garbage.Open(e.root).CheckVersion(); err != nil {
		return s, err
	}
	if err := checkSecretName(s.Name); err != nil {
		return s, err
	}
	if len(data) == 0 || len(data) > api.MaxSecret {
		return s, api.Errorf(api.InvalidArgument, "secret %s: its data are %d bytes: they must be 1 to %d", s.Name, len(data), api.MaxSecret)
	}
	if err := atomicfile.MakeDir(e.secretDir()); err != nil {
		return s, err
	}
	l, err := lock.Take(filepath.Join(e.secretDir(), ".lock"))
	if err != nil {
		return s, err
	}
	defer l.Release()
	if err := e.removeSecretDrafts(); err != nil {
		return s, err
	}
	s.ID, s.Created = id.New()[:25], time.Now().UTC()
	s.Updated = s.Created
	switch old, err := e.readSecret(s.Name); {
	case err == nil && !replace:
		return s, api.Errorf(api.AlreadyExists, "%s: secret name in use: remove it with `brig secret rm %s`, or use --replace", s.Name, s.Name)
	case err == nil:
		s.Created = old.Created
	case errors.Is(err, api.Corrupt) && replace:
	case !errors.Is(err, api.NotFound):
		return s, err
	}
	b, err := json.Marshal(secretRecord{s, data})
	if err != nil {
		return s, err
	}
	return s, atomicfile.Write(e.secretPath(s.Name), record.Sign(b), 0o600, atomicfile.Durable)
}

// A draft has the secret in it, and its name may have a draft's mark: so what is a secret is known by its end.
func isSecretDraft(entry os.DirEntry) bool {
	return isDraft(entry) && !strings.HasSuffix(entry.Name(), ".json")
}

// removeSecretDrafts removes what of a secret one left who was killed on the way, for who holds the lock.
func (e *Engine) removeSecretDrafts() error {
	return removeDrafts(e.secretDir(), isSecretDraft)
}

// sweepSecrets does so where nobody makes a secret just now.
func (e *Engine) sweepSecrets() {
	if entries, err := os.ReadDir(e.secretDir()); err != nil || !slices.ContainsFunc(entries, isSecretDraft) {
		return
	}
	l, err := lock.Try(filepath.Join(e.secretDir(), ".lock"))
	if err != nil {
		return
	}
	defer l.Release()
	_ = e.removeSecretDrafts() // else the next command tries again
}

// checkSecretName holds a name against podman's rule, which keeps it in its folder too.
func checkSecretName(name string) error {
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' }
	ok := name != "" && len(name) <= 64 && alnum(name[0]) && alnum(name[len(name)-1])
	for i := 0; ok && i < len(name); i++ {
		ok = alnum(name[i]) || strings.IndexByte("-_.", name[i]) >= 0
	}
	if !ok {
		return api.Errorf(api.InvalidArgument, "secret name %q is invalid: it may have 64 letters, digits and of -_. in the middle", name)
	}
	return nil
}

func (e *Engine) readSecret(name string) (secretRecord, error) {
	var r secretRecord
	if checkSecretName(name) != nil {
		return r, noSecret(name)
	}
	b, err := os.ReadFile(e.secretPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return r, noSecret(name)
	}
	if err != nil {
		return r, err
	}
	if err = record.Verify(b); err == nil && !record.Signed(b) {
		err = errors.New("it has no checksum")
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, api.Errorf(api.Corrupt, "secret %s: its record is damaged: %w: make it anew with --replace", name, err)
	}
	return r, nil
}

func noSecret(name string) error {
	return api.Errorf(api.NotFound, "no secret with name or id %q: no such secret", name)
}

// secret finds one by its name, ID or a prefix of the ID that only it has.
func (e *Engine) secret(name string) (secretRecord, error) {
	r, err := e.readSecret(name)
	if !errors.Is(err, api.NotFound) || name == "" {
		return r, err
	}
	all, lerr := e.Secrets(context.Background())
	if lerr != nil {
		return r, lerr
	}
	var found []string
	for _, s := range all {
		if strings.HasPrefix(s.ID, name) {
			found = append(found, s.Name)
		}
	}
	switch len(found) {
	case 0:
		return r, err
	case 1:
		return e.readSecret(found[0])
	}
	return r, api.Errorf(api.InvalidArgument, "secret %s is ambiguous: it could be %s or %s; give more digits", name, found[0], found[1])
}

// InspectSecret tells of a secret all but what it is.
func (e *Engine) InspectSecret(_ context.Context, name string) (api.Secret, error) {
	r, err := e.secret(name)
	return r.Secret, err
}

// Secrets lists them by name. One whose record is damaged is left out, and an error when it is asked for.
func (e *Engine) Secrets(ctx context.Context) (list []api.Secret, err error) {
	entries, err := os.ReadDir(e.secretDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".json")
		if !ok {
			continue
		}
		if r, err := e.readSecret(name); err == nil {
			list = append(list, r.Secret)
		}
	}
	return list, ctx.Err()
}

// RemoveSecret removes a secret and returns its ID. Containers that have it keep their copy.
func (e *Engine) RemoveSecret(_ context.Context, name string) (string, error) {
	r, err := e.secret(name)
	if err != nil && !errors.Is(err, api.Corrupt) {
		return "", err
	}
	if err != nil {
		r.Name, r.ID = name, name
	}
	l, err := lock.Take(filepath.Join(e.secretDir(), ".lock"))
	if err != nil {
		return "", err
	}
	defer l.Release()
	if err := e.removeSecretDrafts(); err != nil {
		return "", err
	}
	if err := os.Remove(e.secretPath(r.Name)); errors.Is(err, fs.ErrNotExist) {
		return "", noSecret(name)
	} else if err != nil {
		return "", err
	}
	return r.ID, atomicfile.SyncDir(e.secretDir())
}

// checkSecrets refuses before anything is made what a container cannot be given.
func (e *Engine) checkSecrets(s *api.ContainerSpec) error {
	for i := range s.Secrets {
		r, err := e.secret(s.Secrets[i].Source)
		if err != nil {
			return err
		}
		spec := &s.Secrets[i]
		if spec.Target == "" {
			spec.Target = r.Name
		}
		if spec.Env {
			if strings.ContainsAny(spec.Target, "=\x00") || slices.Contains(r.Data, 0) {
				return api.Errorf(api.InvalidArgument, "secret %s: a variable's name has no =, and its value no NUL byte: use type=mount", r.Name)
			}
			continue
		}
		if target := path.Clean(spec.Target); slices.Contains(strings.Split(spec.Target, "/"), "..") || target == "." || target == "/" || strings.IndexByte(target, 0) >= 0 {
			return api.Errorf(api.InvalidArgument, "secret %s: target %q must be a file below %s, or an absolute path without ..", r.Name, spec.Target, secretsDir)
		}
		if !path.IsAbs(spec.Target) {
			spec.Target = path.Join(secretsDir, spec.Target)
		}
		spec.Target = path.Clean(spec.Target)
	}
	return nil
}

// keepSecrets copies the secrets of a new container into its folder: what becomes of a secret later does not concern it.
func (e *Engine) keepSecrets(c *api.Container) error {
	for i := range c.Spec.Secrets {
		s := &c.Spec.Secrets[i]
		r, err := e.secret(s.Source)
		if err != nil {
			return err
		}
		if err := atomicfile.MakeDir(filepath.Dir(e.ownSecret(c, i))); err != nil {
			return err
		}
		if err := atomicfile.Write(e.ownSecret(c, i), r.Data, 0o600, durability(c)); err != nil {
			return err
		}
	}
	return nil
}

// sumSecrets writes down, before the container's record is, what its copies will be.
func (e *Engine) sumSecrets(c *api.Container) error {
	for i := range c.Spec.Secrets {
		r, err := e.secret(c.Spec.Secrets[i].Source)
		if err != nil {
			return err
		}
		c.Spec.Secrets[i].Sum = sumOf(r.Data)
	}
	return nil
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (e *Engine) ownSecret(c *api.Container, i int) string {
	return filepath.Join(e.meta.Dir(c.ID), "secret", strconv.Itoa(i))
}

// addSecrets gives a container's configuration its variables and files. The runtime copies the files to memory; they are mounted from there, read-only.
func (e *Engine) addSecrets(o *specs.Spec, c *api.Container) error {
	for i := range c.Spec.Secrets {
		s := &c.Spec.Secrets[i]
		own := e.ownSecret(c, i)
		if err := giveFiles(c, own); err != nil { // who reads it is the container's root
			return err
		}
		data, err := os.ReadFile(own)
		if err != nil {
			return api.Errorf(api.Corrupt, "secret %s of container %s: %w", s.Source, c.Name, err)
		}
		if sumOf(data) != s.Sum {
			return api.Errorf(api.Corrupt, "secret %s of container %s: its copy is damaged: make the container anew", s.Source, c.Name)
		}
		if s.Env {
			o.Process.Env = mergeEnv(o.Process.Env, []string{s.Target + "=" + string(data)})
			continue
		}
		mode := s.Mode
		if mode == 0 {
			mode = 0o444
		}
		o.Mounts = append(o.Mounts, specs.Mount{
			Type: "bind", Source: own, Destination: s.Target,
			Options: []string{"bind", "ro", "nosuid", "nodev", "noexec", fmt.Sprintf("%s=%d:%d:%o", oci.OptionSecret, s.UID, s.GID, mode)},
		})
	}
	return nil
}
