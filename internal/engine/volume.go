package engine

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/record"
	"brig/internal/store/sized"
)

// volumeRecord is volume.json. A folder with it is a volume; one without was left by a process that died making it.
type volumeRecord struct {
	Anonymous bool              `json:"anonymous,omitempty"` // made for one container, removed with it by rm -v and --rm
	Shared    bool              `json:"shared,omitempty"`    // it has been another container's too, by --volumes-from
	Used      bool              `json:"used,omitempty"`      // the image's files have been copied in
	Created   time.Time         `json:"created,omitzero"`    // zero: by a Brig that did not write it down
	Labels    map[string]string `json:"labels,omitempty"`
	Options   map[string]string `json:"options,omitempty"` // of the driver, as given
	Size      int64             `json:"size,omitempty"`    // bytes that it may hold; 0: what the disk has
}

// bound is the folder of the host that a volume stands for, empty: its own.
func (r *volumeRecord) bound() string { return r.Options["device"] }

func (e *Engine) volumeDir(name string) string  { return filepath.Join(e.root, "volume", name) }
func (e *Engine) volumeData(name string) string { return filepath.Join(e.volumeDir(name), "data") }

// volumeImage is the file of a volume with a size.
func (e *Engine) volumeImage(name string) string { return filepath.Join(e.volumeDir(name), "image") }

// readyVolume has a volume's files be at its place: one with a size is a file system of its own, which may not be mounted yet. None of a volume's files are used before.
func (e *Engine) readyVolume(name string, rec *volumeRecord) error {
	if rec.Size == 0 {
		return nil
	}
	if err := sized.Attach(e.volumeImage(name), e.volumeData(name)); err != nil {
		return api.Errorf(api.KindOf(err), "volume %s: %w", name, err)
	}
	return nil
}

// ensureVolume makes a volume where there is none. sync is Durable for one that is to outlive this boot, its folder's name included.
func (e *Engine) ensureVolume(name string, rec volumeRecord, sync atomicfile.Sync) error {
	dir := e.volumeDir(name)
	data := filepath.Join(dir, "data")
	if exists(filepath.Join(dir, "volume.json")) {
		if err := os.Mkdir(data, 0o755); err != nil && !os.IsExist(err) { // a power cut may have left the record alone
			return err
		}
		return nil
	}
	err := atomicfile.MakeDir(filepath.Dir(dir))
	if err == nil && sync == atomicfile.Durable {
		err = atomicfile.MakeDir(dir)
	} else if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil && !os.IsExist(err) {
		return api.Errorf(api.KindOf(err), "volume %s: %w", name, err)
	}
	if err := os.Mkdir(data, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	if rec.Size > 0 {
		if err := sized.Make(e.volumeImage(name), rec.Size, sync); err != nil {
			return api.Errorf(api.KindOf(err), "volume %s: %w", name, err)
		}
	}
	if err := e.putVolume(name, rec, sync); err != nil {
		return err
	}
	e.note(happenedTo("volume", name, name, "create"))
	return nil
}

func (e *Engine) putVolume(name string, rec volumeRecord, sync atomicfile.Sync) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(e.volumeDir(name), "volume.json"), record.Sign(data), 0o600, sync)
}

func (e *Engine) volume(name string) (volumeRecord, error) {
	var rec volumeRecord
	data, err := os.ReadFile(filepath.Join(e.volumeDir(name), "volume.json"))
	if err != nil {
		return rec, err
	}
	if err = record.Verify(data); err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err != nil {
		return rec, api.Errorf(api.Corrupt, "volume %s: its record is damaged: %w", name, err)
	}
	return rec, nil
}

// lasting says whether a volume is to survive a power cut: not one that goes with its container, and that with its process.
func lasting(c *api.Container, anonymous bool) atomicfile.Sync {
	return durability(c) || atomicfile.Sync(!anonymous)
}

// copyUp is the mount option that has the image's files copied into a volume that is new.
func copyUp(c *api.Container, rec volumeRecord) string {
	if lasting(c, rec.Anonymous) == atomicfile.Durable {
		return "copyupsync"
	}
	return "copyup"
}

// markVolumesUsed is called when a container has been made with them.
func (e *Engine) markVolumesUsed(c *api.Container) error {
	for _, m := range c.Spec.Mounts {
		if m.Type != "volume" {
			continue
		}
		rec, err := e.volume(m.Source)
		if err != nil {
			return err
		}
		if rec.Used {
			continue
		}
		rec.Used = true
		if err := e.putVolume(m.Source, rec, lasting(c, rec.Anonymous)); err != nil {
			return err
		}
	}
	return nil
}

// removeAnonymous removes the container's anonymous volumes.
func (e *Engine) removeAnonymous(c *api.Container) error {
	for _, m := range c.Spec.Mounts {
		if m.Type != "volume" || m.Source == "" {
			continue
		}
		rec, err := e.volume(m.Source)
		halfMade := errors.Is(err, fs.ErrNotExist) && id.Valid(m.Source)
		if err == nil && rec.Anonymous && rec.Shared {
			users, err := e.volumeUsers()
			if err != nil {
				return err
			}
			if slices.ContainsFunc(users[m.Source], func(id string) bool { return id != c.ID }) {
				continue // who has it last takes it along
			}
		}
		if err == nil && rec.Anonymous || halfMade {
			if err := sized.Detach(e.volumeData(m.Source)); err != nil {
				return err
			}
			if err := os.RemoveAll(e.volumeDir(m.Source)); err != nil {
				return err
			}
			e.note(happenedTo("volume", m.Source, m.Source, "destroy"))
		}
	}
	return nil
}

// nameVolumes gives the anonymous volumes of a container their names, one for each that its image declares and no mount covers too, and
// returns those. It makes none: the container's record must know them first, so that none is left of a process that dies on the way.
func nameVolumes(c *api.Container) (anonymous map[string]bool, err error) {
	covered := map[string]bool{}
	anonymous = map[string]bool{}
	for i := range c.Spec.Mounts {
		m := &c.Spec.Mounts[i]
		target := filepath.Clean(m.Target)
		if covered[target] {
			return nil, api.Errorf(api.InvalidArgument, "two mounts at %s", target)
		}
		covered[target] = true
		if m.Type == "volume" && m.Source == "" {
			m.Source = id.New()
			anonymous[m.Source] = true
		}
	}
	for target := range c.ImageConfig.Volumes {
		if covered[filepath.Clean(target)] || c.Spec.ImageVolume == api.ImageVolumeIgnore || hasOwn(&c.Spec, filepath.Join("/", target)) {
			continue
		}
		if c.Spec.ImageVolume == api.ImageVolumeTmpfs {
			c.Spec.Mounts = append(c.Spec.Mounts, api.MountSpec{Type: "tmpfs", Target: filepath.Join("/", target)})
			continue
		}
		name := id.New()
		anonymous[name] = true
		c.Spec.Mounts = append(c.Spec.Mounts, api.MountSpec{Type: "volume", Source: name, Target: filepath.Join("/", target)})
	}
	return anonymous, nil
}

// makeVolumes makes the volumes that a container names.
func (e *Engine) makeVolumes(c *api.Container, anonymous map[string]bool) error {
	for _, m := range c.Spec.Mounts {
		if m.Type != "volume" {
			continue
		}
		if err := e.ensureVolume(m.Source, volumeRecord{Anonymous: anonymous[m.Source], Created: time.Now().UTC().Truncate(time.Second)}, lasting(c, anonymous[m.Source])); err != nil {
			return err
		}
	}
	return nil
}
