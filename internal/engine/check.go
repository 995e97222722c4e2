package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/record"
	"brig/internal/runtime/shim"
)

// Check reads the whole store and tells what is wrong in it. With repair it sets right what it can. Blobs, layers and images are looked at
// by brig-image, which can unpack and fetch; what lies beside them here.
func (e *Engine) Check(ctx context.Context, repair, insecure bool, s api.Streams) (api.CheckReport, error) {
	list, err := e.List(ctx)
	if err != nil {
		return api.CheckReport{}, err
	}
	r := api.TransferRequest{Op: "check", Repair: repair, Insecure: insecure, Quiet: true}
	for _, c := range list {
		if e.isRunning(c.ID) {
			r.Busy = append(r.Busy, c.ID)
		}
	}
	reply, err := e.Transfer(ctx, r, api.Streams{Stdout: s.Stderr, Stderr: s.Stderr})
	if err != nil {
		return api.CheckReport{}, err
	}
	if reply.Check == nil {
		return api.CheckReport{}, errors.New("brig-image sent no report")
	}
	report := *reply.Check
	for _, p := range report.Problems {
		if p.Kind == "version" && p.Repaired == "" {
			return report, nil
		}
	}
	if err := e.checkVolumes(&report, repair); err != nil {
		return report, err
	}
	if err := e.checkExits(&report, repair); err != nil {
		return report, err
	}
	if err := e.checkPods(&report, repair); err != nil {
		return report, err
	}
	if err := e.checkNetworkRecords(&report, repair); err != nil {
		return report, err
	}
	return report, e.checkBridge(&report, repair)
}

// checkVolumes: a volume whose record cannot be read is taken for one that a user made, so that it is never removed with a container.
func (e *Engine) checkVolumes(report *api.CheckReport, repair bool) error {
	names, err := e.volumeNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		rec, err := e.volume(name)
		if errors.Is(err, fs.ErrNotExist) {
			report.Leftovers = append(report.Leftovers, api.Problem{Kind: "volume", Name: name, Path: "volume/" + name, Trouble: "never made to its end; `brig system prune --volumes` removes it, unless a container knows it"})
			continue
		}
		path := filepath.Join("volume", name, "volume.json")
		if err == nil {
			b, rerr := os.ReadFile(filepath.Join(e.root, path))
			want, merr := json.Marshal(rec)
			if rerr != nil || merr != nil || record.Signed(b) || string(b) == string(want) { // older ones have no checksum
				continue
			}
			err = errors.New("it was written by no Brig")
		}
		p := api.Problem{Kind: "volume", Name: name, Path: path, Trouble: "its record: " + err.Error()}
		if repair {
			if err := e.putVolume(name, volumeRecord{Used: true}, atomicfile.Durable); err != nil {
				return err
			}
			p.Repaired = "written anew as a named volume, which no prune and no rm takes"
		}
		report.Problems = append(report.Problems, p)
	}
	return nil
}

// checkNetworkRecords: what a network was whose record cannot be read nobody knows. Its containers cannot start until there is one of its name again.
func (e *Engine) checkNetworkRecords(report *api.CheckReport, repair bool) error {
	damaged, err := e.network.Damaged()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(damaged)) {
		p := api.Problem{Kind: "network", Name: name, Path: filepath.Join("network", name+".json"), Trouble: "its record: " + damaged[name].Error()}
		if repair {
			if err := e.network.Remove(name); err != nil && !errors.Is(err, api.NotFound) {
				return err
			}
			p.Repaired = "removed: make it again with `brig network create " + name + "`"
		}
		report.Problems = append(report.Problems, p)
	}
	return nil
}

// checkExits: an exit status that cannot be read is lost, and the container would be taken for one that never ran.
func (e *Engine) checkExits(report *api.CheckReport, repair bool) error {
	ids, err := e.meta.ContainerIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		_, err := shim.ReadExit(e.exitPath(id))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		p := api.Problem{Kind: "container", Name: id, Path: filepath.Join("container", id, "exit.json"), Trouble: "how it ended: " + err.Error()}
		if repair {
			if err := os.Remove(e.exitPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			p.Repaired = "removed: how its last run ended is not known"
		}
		report.Problems = append(report.Problems, p)
	}
	return nil
}

// checkPods: a pod whose record cannot be read is nobody's to act on; its containers are there, and can be removed without it.
func (e *Engine) checkPods(report *api.CheckReport, repair bool) error {
	ids, err := e.podIDs()
	if err != nil {
		return err
	}
	for _, podID := range ids {
		_, err := e.readPod(podID)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		p := api.Problem{Kind: "pod", Name: podID, Path: filepath.Join("pod", podID+".json"), Trouble: err.Error()}
		if repair {
			if err := os.Remove(e.podPath(podID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			p.Repaired = "removed: its containers are as they were, and in no pod"
		}
		report.Problems = append(report.Problems, p)
	}
	return nil
}

// checkBridge: without its file the bridge gets new subnets, once no container is on it.
func (e *Engine) checkBridge(report *api.CheckReport, repair bool) error {
	path := filepath.Join(e.root, "network", "bridge.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var subnets struct {
		V4 netip.Prefix `json:"ipv4"`
		V6 netip.Prefix `json:"ipv6"`
	}
	if err = json.Unmarshal(b, &subnets); err == nil && subnets.V4.Addr().Is4() && subnets.V6.Addr().Is6() {
		return nil
	}
	p := api.Problem{Kind: "network", Name: "bridge", Path: "network/bridge.json", Trouble: "its subnets cannot be read"}
	if err != nil {
		p.Trouble += ": " + err.Error()
	}
	if repair {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		p.Repaired = "removed: new subnets are chosen as soon as no container is on the bridge"
	}
	report.Problems = append(report.Problems, p)
	return nil
}
