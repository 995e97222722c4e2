package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brig/api"
	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
)

// descriptorsName is runc's name of the file that says what the standard streams were.
const descriptorsName = "descriptors.json"

// Streams are what the standard streams of a container's first process are: a pipe "pipe:[N]", a file from outside "file[M:N]" or its
// null device "null[M:N]", which must be handed in again, or a path in the container, which criu opens by itself.
type Streams [3]string

// StreamsOf looks at process pid.
func StreamsOf(pid int) (s Streams, err error) {
	at := "/proc/" + strconv.Itoa(pid)
	table, err := os.ReadFile(at + "/mountinfo")
	if err != nil {
		return s, err
	}
	for i := range s {
		n := strconv.Itoa(i)
		link, err := os.Readlink(at + "/fd/" + n)
		if errors.Is(err, os.ErrNotExist) { // closed
			continue
		}
		if err != nil {
			return s, err
		}
		if s[i] = link; !strings.HasPrefix(link, "/") {
			continue
		}
		info, err := os.ReadFile(at + "/fdinfo/" + n)
		if err != nil {
			return s, err
		}
		id, ok := mountID(string(info))
		if !ok || hasMount(string(table), id) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(at+"/fd/"+n, &st); err != nil {
			return s, &os.PathError{Op: "stat", Path: at + "/fd/" + n, Err: err}
		}
		kind := "file"
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			kind = "null"
		}
		s[i] = fmt.Sprintf("%s[%x:%x]", kind, id, st.Ino) // criu(8), --external: both in hexadecimal
	}
	return s, nil
}

// mountID is the mnt_id of proc_pid_fdinfo(5).
func mountID(info string) (int, bool) {
	for line := range strings.Lines(info) {
		if rest, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			id, err := strconv.Atoi(strings.TrimSpace(rest))
			return id, err == nil
		}
	}
	return 0, false
}

func hasMount(table string, id int) bool {
	for line := range strings.Lines(table) {
		if first, _, _ := strings.Cut(line, " "); first == strconv.Itoa(id) {
			return true
		}
	}
	return false
}

// key is what criu calls a stream that comes from outside; "": none does.
func key(stream string) string {
	kind, rest, ok := strings.Cut(stream, "[")
	if !ok || !strings.HasSuffix(rest, "]") || strings.Trim(rest[:len(rest)-1], "0123456789abcdef:") != "" {
		return ""
	}
	switch kind {
	case "pipe:":
		return stream
	case "file", "null":
		return "file[" + rest
	}
	return ""
}

// External is what a dump is told of them. Pipes need no telling.
func (s Streams) External() (list []string) {
	seen := ""
	for _, stream := range s {
		if k := key(stream); strings.HasPrefix(k, "file[") && !strings.Contains(seen, k) {
			list, seen = append(list, k), seen+k
		}
	}
	return list
}

// Save writes them beside the archive.
func (s Streams) Save(images string) error {
	data, err := record.Marshal(s[:])
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(images, descriptorsName), data, 0o600)
}

// maxDescriptors is how long a descriptors.json is believed, in bytes: three paths.
const maxDescriptors = 64 << 10

// LoadStreams reads what Save wrote, or runc did.
func LoadStreams(images string) (s Streams, err error) {
	name := filepath.Join(images, descriptorsName)
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return s, api.Errorf(api.InvalidArgument, "%s: %w: is this the folder of a checkpoint (--image-path)?", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	data := make([]byte, maxDescriptors)
	n, err := f.Read(data)
	if err != nil {
		return s, err
	}
	var list []string
	if err := jsonscan.Decode(data[:n], &list, func(s *jsonscan.Scanner, v *[]string) { jsonscan.List(s, v, jsonscan.String[string]) }); err != nil {
		return s, api.Errorf(api.InvalidArgument, "%s: %w", name, err)
	}
	if len(list) > len(s) {
		return s, api.Errorf(api.InvalidArgument, "%s: %d streams are listed, a process has %d", name, len(list), len(s))
	}
	copy(s[:], list)
	return s, nil
}

// Inherit is what a restore hands in for them: keys and files, of which those that it opened itself are closed by close.
func (s Streams) Inherit(stdio [3]*os.File) (keys []string, files []*os.File, closeAll func(), err error) {
	var own []*os.File
	closeAll = func() {
		for _, f := range own {
			f.Close()
		}
	}
	for i, stream := range s {
		k := key(stream)
		if k == "" {
			continue
		}
		again := false
		for _, have := range keys {
			again = again || have == k
		}
		if again {
			continue
		}
		f := stdio[i]
		if strings.HasPrefix(stream, "null[") { // one for all streams, whatever each may do
			if f, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				closeAll()
				return nil, nil, nil, err
			}
			own = append(own, f)
		}
		keys, files = append(keys, k), append(files, f)
	}
	return keys, files, closeAll, nil
}
