package machine

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"
)

// entry is what tells one version of a file in an archive from another.
type entry struct {
	kind     byte
	mode     int64
	uid, gid int
	mtime    time.Time
	size     int64
	link     string
	sum      [sha256.Size]byte
}

// tarDiff writes to out the layer that makes of the archive below the archive whole: what is new or different, the folders on the way to
// it, and a whiteout for what is gone. Without below, that is all of it.
func tarDiff(out, whole, below string) (err error) {
	old := map[string]entry{}
	if below != "" {
		if old, err = entries(below); err != nil {
			return err
		}
	}
	now, err := entries(whole)
	if err != nil {
		return err
	}
	take := map[string]bool{}
	// A folder on the way is in the layer even if only what is in it changed; so is the file that a hard link names, or the link would lead out of the layer.
	var add func(name string)
	add = func(name string) {
		if name == "." || name == "/" || take[name] {
			return
		}
		take[name] = true
		add(path.Dir(name))
		if e := now[name]; e.kind == tar.TypeLink {
			add(e.link)
		}
	}
	for name, e := range now {
		if old[name] != e {
			add(name)
		}
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	w := tar.NewWriter(f)
	err = walk(whole, func(h *tar.Header, body io.Reader) error {
		if !take[h.Name] {
			return nil
		}
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(w, body)
		return err
	})
	if err != nil {
		return err
	}
	for name := range old {
		_, here := now[name]
		if parent := path.Dir(name); here || parent != "." && now[parent].kind != tar.TypeDir {
			continue // with its folder, if that is gone too
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(name), ".wh."+path.Base(name)), Mode: 0o600}); err != nil {
			return err
		}
	}
	return w.Close()
}

// entries lists what is in an archive.
func entries(file string) (map[string]entry, error) {
	out := map[string]entry{}
	err := walk(file, func(h *tar.Header, body io.Reader) error {
		e := entry{kind: h.Typeflag, mode: h.Mode, uid: h.Uid, gid: h.Gid, mtime: h.ModTime, size: h.Size, link: h.Linkname}
		hash := sha256.New()
		if _, err := io.Copy(hash, body); err != nil {
			return err
		}
		hash.Sum(e.sum[:0])
		out[h.Name] = e
		return nil
	})
	return out, err
}

// walk calls f for each entry of an archive but its root, names cleaned and times in whole seconds, as they are in images.
func walk(file string, f func(*tar.Header, io.Reader) error) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if h.Name = path.Clean(h.Name); h.Name == "." {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = path.Clean(h.Linkname)
		}
		h.ModTime = h.ModTime.Truncate(time.Second).UTC()
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		h.Uname, h.Gname = "", ""
		h.Format = tar.FormatUnknown
		h.PAXRecords = nil
		if strings.HasPrefix(h.Name, "../") {
			return fmt.Errorf("%s: %s leads out of the archive", file, h.Name)
		}
		if err := f(h, r); err != nil {
			return fmt.Errorf("%s: %s: %w", file, h.Name, err)
		}
	}
}
