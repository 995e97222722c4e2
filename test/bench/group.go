package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// limited makes control groups with the limits that the servers' containers have, as a service manager makes them for a process without a container. enter is a script by which a shell goes
// into them.
func limited(name string) (enter string, remove func(), err error) {
	type file struct{ dir, name, value string }
	const root = "/sys/fs/cgroup"
	files := []file{
		{root + "/cpu", "cpu.cfs_quota_us", "200000"}, {root + "/memory", "memory.limit_in_bytes", "2147483648"}, {root + "/pids", "pids.max", "200"},
	}
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		files = []file{{root, "cpu.max", "200000 100000"}, {root, "memory.max", "2147483648"}, {root, "pids.max", "200"}}
	}
	var made []string
	remove = func() {
		for _, dir := range made {
			for range 50 { // who was in it may not be gone yet
				if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	var script strings.Builder
	for _, f := range files {
		dir := filepath.Join(f.dir, name)
		if err := os.Mkdir(dir, 0o755); err == nil {
			made = append(made, dir)
		} else if !errors.Is(err, os.ErrExist) {
			remove()
			return "", nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.value), 0); err != nil {
			remove()
			return "", nil, err
		}
		script.WriteString("echo $$ >" + dir + "/cgroup.procs && ")
	}
	return script.String(), remove, nil
}
