package garbage

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/record"
)

const (
	settingsFile = "settings.json"
	versionFile  = "version"
	// Version is the layout of the store that this program writes. A store without a version is of the first programs, which had none
	// but 1; the first transfer into it writes one. In 2 there may be layers that are images with clusters of zstd.
	Version = 2
)

// Settings are what a user set for a store. Every process on it goes by them.
type Settings struct {
	StoreLimit int64 `json:"storeLimit"` // what the whole of --root may take, bytes; 0: no limit
}

// Settings reads the settings. Of a store without any all are zero; damaged ones are api.Corrupt.
func (s Stores) Settings() (Settings, error) {
	var v Settings
	err := s.readSmall(settingsFile, &v, "set the limit again with `brig system limit`")
	if err == nil && v.StoreLimit < 0 {
		return Settings{}, api.Errorf(api.Corrupt, "%s: a limit of %d bytes; set it again with `brig system limit`", filepath.Join(s.Root, settingsFile), v.StoreLimit)
	}
	return v, err
}

// PutSettings stores the settings durably.
func (s Stores) PutSettings(v Settings) error {
	l, err := s.Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	return s.writeSmall(settingsFile, v)
}

type version struct {
	Layout int `json:"layout"`
}

// CheckVersion refuses, with api.Unsupported, to write into a store of a newer layout than this program knows. It costs one small file.
func (s Stores) CheckVersion() error {
	_, err := s.version()
	return err
}

func (s Stores) version() (int, error) {
	var st unix.Stat_t
	if unix.Stat(filepath.Join(s.Root, versionFile), &st) == nil && int(st.Uid) != os.Geteuid() {
		return 0, api.Errorf(api.Denied, "the store in %s belongs to user %d, and a store is one user's: run brig as that user, or use another --root", s.Root, st.Uid)
	}
	var v version
	if err := s.readSmall(versionFile, &v, "write it anew with `brig system check --repair`"); err != nil {
		return 0, err
	}
	if v.Layout > Version {
		return v.Layout, api.Errorf(api.Unsupported, "the store in %s is of layout %d, made by a newer Brig than this one, which knows layout %d: use the newer one, or another --root", s.Root, v.Layout, Version)
	}
	return v.Layout, nil
}

// EnsureVersion is CheckVersion for who is about to bring something in: a store without a version gets one.
func (s Stores) EnsureVersion() error {
	v, err := s.version()
	if err != nil || v == Version {
		return err
	}
	l, err := s.Lock()
	if err != nil {
		return err
	}
	defer l.Release()
	if v, err = s.version(); err != nil || v == Version {
		return err
	}
	return s.writeSmall(versionFile, version{Version})
}

// readSmall decodes a file of --root; one that is not there leaves v as it is.
func (s Stores) readSmall(name string, v any, next string) error {
	path := filepath.Join(s.Root, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err = record.Verify(b); err == nil {
		err = json.Unmarshal(b, v)
	}
	if err == nil && !record.Signed(b) {
		err = errors.New("it has no checksum")
	}
	if err != nil {
		return api.Errorf(api.Corrupt, "%s is damaged; %s: %w", path, next, err)
	}
	return nil
}

func (s Stores) writeSmall(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.Root, name), record.Sign(b), 0o600, atomicfile.Durable)
}
