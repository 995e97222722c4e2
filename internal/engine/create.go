package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/rootless"
	"brig/internal/base/undo"
	"brig/internal/image/ref"
	"brig/internal/store/garbage"
	"brig/internal/store/sized"
)

// Create makes a container's record, ready for Start. Nothing is left of it on error.
func (e *Engine) Create(ctx context.Context, spec api.ContainerSpec, out api.Streams) (c api.Container, err error) {
	if spec.Pull == api.PullLazy {
		return c, api.Errorf(api.InvalidArgument, "--pull lazy is for `brig run`: an image is read as it is needed only while a container of it runs")
	}
	err = e.untilThere(&c, func(b *bringing) error {
		if c, err = e.newContainer(ctx, spec, out, b); err != nil {
			return err
		}
		var u undo.Stack
		defer u.Run()
		if err := e.down(ctx, &c, &u); err != nil {
			return err
		}
		for _, d := range c.Layers { // from now on they stay, if they are there
			if !e.snapshot.Has(digest.Digest(d)) {
				return api.Errorf(api.Corrupt, "image layer %s is not there; fetch the image again with `brig pull`", d)
			}
		}
		u.Release()
		e.note(happened(&c, "create"))
		return nil
	})
	return c, err
}

// untilThere makes container c, again where its image was removed between the moment that its record was read and the moment that the
// container's was written: then the image is brought in anew, as if it had been removed before.
func (e *Engine) untilThere(c *api.Container, try func(*bringing) error) error {
	const tries = 4
	var b bringing
	defer b.end()
	for n := 1; ; n++ {
		err := try(&b)
		if err == nil || n == tries || !errors.Is(err, api.Corrupt) || c.Image == "" {
			return err
		}
		if _, ierr := e.meta.ImageByID(c.Image); !errors.Is(ierr, api.NotFound) {
			return err // its layers are missing while it is listed: that is damage
		}
	}
}

// bringing is the lease of what is pulled for a container, from before the pull until the container's own record keeps the layers.
type bringing struct {
	lease  *garbage.Lease
	lowers map[string]string // where layers are that are read as they are needed, by diff ID
	hold   *os.File          // while it is open they stay there
}

func (b *bringing) begin(ctx context.Context, e *Engine) (err error) {
	if b.lease == nil {
		b.lease, err = garbage.Open(e.root).Lease(ctx)
	}
	return err
}

func (b *bringing) end() {
	if b.lease != nil {
		b.lease.Release()
	}
	if b.hold != nil {
		b.hold.Close()
	}
}

// newContainer finds the image and merges its settings with the user's. It makes nothing.
func (e *Engine) newContainer(ctx context.Context, spec api.ContainerSpec, out api.Streams, b *bringing) (api.Container, error) {
	c := api.Container{ID: id.New(), Name: spec.Name, Spec: spec}
	if err := garbage.Open(e.root).CheckVersion(); err != nil { // before anything is made
		return c, err
	}
	if err := e.checkStore(); err != nil {
		return c, err
	}
	if err := e.levelOfPod(&spec); err != nil {
		return c, err
	}
	if err := e.checkLevel(&spec); err != nil {
		return c, err
	}
	if spec.Pull == api.PullLazy && (spec.Restart.Name != "" && spec.Restart.Name != api.RestartNo || spec.Health != nil && spec.Health.OnFailure == api.UnhealthyRestart) {
		return c, api.Errorf(api.InvalidArgument, "--pull lazy does not go together with a restart policy: who reads the image ends with the container's run")
	}
	if err := e.nameNetworks(&c.Spec.Network); err != nil {
		return c, err
	}
	var img api.Image
	var err error
	if spec.Rootfs.Dir != "" {
		err = checkRootfs(&spec)
	} else if img, err = e.imageFor(ctx, &spec, out, b); err == nil {
		e.meta.UseImage(&img)
	}
	if err != nil {
		return c, err
	}
	if err := e.mountImages(ctx, &spec, out, b); err != nil {
		return c, err
	}
	c.Created = time.Now().UTC()
	c.Healthcheck = healthcheck(img.Health, spec.Health)
	c.Image, c.ImageName, c.ImageConfig = img.ID, spec.Image, img.Config // without an image the name is the folder's
	for _, l := range img.Layers {
		c.Layers = append(c.Layers, l.DiffID)
	}
	c.Spec = spec
	if err := e.resolve(&c); err != nil {
		return c, err
	}
	if c.Args, err = command(&c.Spec, img.Config.Entrypoint, img.Config.Cmd); err != nil {
		return c, err
	}
	if err := e.check(&c.Spec); err != nil {
		return c, err
	}
	if err := e.resolveSystemd(&c, out); err != nil {
		return c, err
	}
	e.entrustNesting(&c)
	if err := e.checkInnerShares(&c.Spec); err != nil {
		return c, err
	}
	if err := e.checkSecrets(&c.Spec); err != nil {
		return c, err
	}
	if _, err := e.deviceEdits(&c.Spec); err != nil {
		return c, err
	}
	warnUnmapped(&c.Spec, out)
	return c, nil
}

// imageFor finds the image of a spec in the store, pulling it where policy and store say so.
func (e *Engine) imageFor(ctx context.Context, spec *api.ContainerSpec, out api.Streams, b *bringing) (api.Image, error) {
	if spec.Pull != api.PullAlways {
		img, err := e.InspectImage(ctx, spec.Image)
		if err == nil && matchesPlatform(&img, spec.Platform) {
			return e.trusted(ctx, img, out)
		}
		if err != nil && !errors.Is(err, api.NotFound) {
			return img, err
		}
		if spec.Pull == api.PullNever {
			return img, api.Errorf(api.NotFound, "image %s is not in the store, and --pull never was given: pull it first with `brig pull %s`", spec.Image, spec.Image)
		}
	}
	r, err := ref.Parse(spec.Image)
	if err != nil {
		return api.Image{}, err
	}
	s := api.Streams{Stderr: out.Stderr} // standard output is the container's
	// The base image comes out of Brig itself, in no time: not a word about it.
	quiet := r.Name() == "docker.io/brig/base"
	if err := b.begin(ctx, e); err != nil {
		return api.Image{}, err
	}
	request := api.TransferRequest{Op: "pull", Refs: []string{spec.Image}, Platform: spec.Platform, Quiet: quiet, AuthFile: spec.AuthFile, Insecure: spec.Insecure}
	var rep api.TransferReply
	if spec.Pull == api.PullLazy {
		request.Lazy = true
		rep, err = e.lazyTransfer(ctx, request, s, b)
	} else {
		rep, err = e.transfer(ctx, request, s, b.lease)
	}
	if err != nil {
		return api.Image{}, err
	}
	if len(rep.Images) == 0 {
		return api.Image{}, api.Errorf(api.NotFound, "image %s: the pull brought nothing", spec.Image)
	}
	return rep.Images[0], nil
}

// matchesPlatform reports whether an image is for the platform asked; variant only when it was given.
func matchesPlatform(img *api.Image, want string) bool {
	return want == "" || img.Platform == want || strings.HasPrefix(img.Platform, want+"/")
}

// record reserves the name, writes the container down and makes its volumes. A name that a process left which died on the way is free.
func (e *Engine) record(ctx context.Context, c *api.Container, u *undo.Stack) error {
	anonymous, err := nameVolumes(c)
	if err != nil {
		return err
	}
	if err := e.sumSecrets(c); err != nil {
		return err
	}
	sync := durability(c)
	given := c.Name != ""
	for try := 0; ; try++ {
		if !given {
			c.Name = randomName(try)
		}
		err := e.meta.CreateContainer(*c, sync)
		if err == nil {
			break
		}
		if !errors.Is(err, api.Conflict) || given && try > 0 || try > 20 {
			return err
		}
		if given {
			e.sweep(ctx)
			if dead, err := e.meta.Container(c.Name); err == nil && dead.State.Status == api.StatusDead {
				_ = e.Remove(ctx, dead.ID, true, true) // else the name is still in use
			}
		}
	}
	u.Add(func() { e.meta.RemoveContainer(c.ID) })
	u.Add(func() { e.removeAnonymous(c) })
	if c.Spec.Pod != "" && !exists(e.podPath(c.Spec.Pod)) { // who removes a pod looks for its containers once more when it has no name any more
		return api.Errorf(api.Conflict, "pod %.12s is being removed by another process", c.Spec.Pod)
	}
	if err := e.checkNetworks(c); err != nil {
		return err
	}
	if err := e.keepSecrets(c); err != nil {
		return err
	}
	return e.makeVolumes(c, anonymous)
}

// durability: what is removed with its process need not survive a power cut, which ends the process.
func durability(c *api.Container) atomicfile.Sync {
	return atomicfile.Sync(!c.Spec.AutoRemove)
}

// check says now what could not be done at start.
func (e *Engine) check(s *api.ContainerSpec) error {
	if err := checkUserNS(s); err != nil {
		return err
	}
	if _, err := rights(s, s.Privileged); err != nil {
		return err
	}
	if err := checkNesting(s); err != nil {
		return err
	}
	if err := checkMore(s); err != nil {
		return err
	}
	if _, err := resources(s); err != nil {
		return err
	}
	if err := checkIDMaps(s); err != nil {
		return err
	}
	if rootless.Active() {
		if err := e.checkRootless(s); err != nil {
			return err
		}
	}
	if _, err := rlimits(s.Ulimits); err != nil {
		return err
	}
	for k := range s.Annotations {
		if k == "" || strings.HasPrefix(k, "org.brig.") {
			return api.Errorf(api.InvalidArgument, "annotation %q: names that begin with org.brig. are Brig's own, and an empty one is none", k)
		}
	}
	if s.OOMScoreAdj < -1000 || s.OOMScoreAdj > 1000 {
		return api.Errorf(api.InvalidArgument, "invalid value %d for oom-score-adj: range is [-1000, 1000]", s.OOMScoreAdj)
	}
	if s.ShmSize < 0 {
		return api.Errorf(api.InvalidArgument, "the size of /dev/shm is %d bytes: it must be more than 0", s.ShmSize)
	}
	if s.StorageSize != 0 {
		if err := sized.Check(s.StorageSize); err != nil {
			return api.Errorf(api.KindOf(err), "--storage-opt size: %w", err)
		}
	}
	if err := checkLog(s); err != nil {
		return err
	}
	if err := checkHealth(s); err != nil {
		return err
	}
	if err := checkRestart(s); err != nil {
		return err
	}
	if s.WorkingDir != "" && !path.IsAbs(s.WorkingDir) {
		return api.Errorf(api.InvalidArgument, "the working directory %q is invalid: it must be an absolute path", s.WorkingDir)
	}
	for _, d := range s.Devices {
		if isCDI(&d) {
			continue
		}
		if _, err := expandDevice(d); err != nil {
			return err
		}
	}
	for _, m := range s.Mounts {
		if m.Type == "bind" && !m.CreateSource && !exists(m.Source) {
			return api.Errorf(api.InvalidArgument, "bind mount source %s does not exist on the host", m.Source)
		}
	}
	return nil
}

// randomName makes up a name, two words, with a number from the second collision on.
func randomName(try int) string {
	name := adjectives[rand.IntN(len(adjectives))] + "_" + nouns[rand.IntN(len(nouns))]
	if try > 1 {
		name += itoa(int64(rand.IntN(10_000)))
	}
	return name
}

var adjectives = [...]string{
	"able", "agile", "amber", "ample", "azure", "bold", "brave", "bright", "brisk", "calm", "civil", "clear", "clever", "coral", "crisp", "deft",
	"eager", "early", "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy", "keen", "kind", "level",
	"light", "lively", "loyal", "lucid", "merry", "mild", "neat", "noble", "plain", "polite", "prime", "proud", "quick", "quiet", "rapid", "ready",
	"rosy", "safe", "silver", "sleek", "smart", "snug", "solid", "steady", "stout", "sunny", "swift", "tidy", "trim", "true", "vivid", "wise",
}

var nouns = [...]string{
	"anchor", "bay", "beacon", "boom", "bow", "bowsprit", "breeze", "bulwark", "buoy", "cabin", "capstan", "clipper", "compass", "coral", "cove", "current",
	"deck", "dock", "dolphin", "fathom", "fjord", "foremast", "galley", "gull", "halyard", "harbour", "haven", "hawser", "helm", "horizon", "hull", "island",
	"jetty", "jib", "keel", "ketch", "lagoon", "lantern", "lighthouse", "lugger", "mainsail", "mast", "mooring", "oar", "osprey", "pelican", "pilot", "pier",
	"porthole", "prow", "quay", "reef", "rigging", "rudder", "schooner", "sextant", "shoal", "sloop", "spar", "tern", "tide", "tiller", "topsail", "wharf",
}

// makeState makes the boot-lived folders.
func (e *Engine) makeState() error {
	for _, d := range []string{e.state, e.state + "/sandbox"} {
		if err := os.Mkdir(d, 0o700); err != nil && !os.IsExist(err) {
			if os.IsNotExist(err) {
				if err = os.MkdirAll(d, 0o700); err == nil {
					continue
				}
			}
			return api.Errorf(api.KindOf(err), "state folder: %w", err)
		}
	}
	return nil
}
