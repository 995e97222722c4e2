package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"brig/api"
)

// specFlags are the flags that run and create share, on their way to an api.ContainerSpec. Most values go straight into spec while
// they are parsed; the other fields wait for finish because their order among one another matters.
type specFlags struct {
	app  *app
	spec api.ContainerSpec

	envFiles, env      []string
	labelFiles, labels []string
	volumes, tmpfs     []api.MountSpec
	mounts             []api.MountSpec
	entrypoint         string
	stopTimeout        int
	health             api.HealthSpec
	noHealth           bool
	logOptions         []string
	cidfile            string
	networks           networkSet
	quiet              bool
	podman             podmanFlags
	podFile            string
	rootfs             bool
}

// addSpecFlags declares the flags on cmd. The names, shorthands and meanings are docker's.
func (a *app) addSpecFlags(cmd *cobra.Command) *specFlags {
	o := &specFlags{app: a}
	s, f := &o.spec, cmd.Flags()
	f.SetInterspersed(false) // what follows IMAGE belongs to the container
	o.processFlags(s, f)
	o.healthFlags(f)
	o.boundaryFlags(s, f)
	namespaceFlags(&s.Namespaces, f)
	nameFlags(s, f)
	o.podman.declare(s, f)

	list(f, "volume", "v", "Bind mount a volume", appendTo(&o.volumes, a.parseVolume))
	list(f, "mount", "", "Attach a filesystem mount to the container", appendTo(&o.mounts, parseMount))
	list(f, "tmpfs", "", "Mount a tmpfs directory", appendTo(&o.tmpfs, parseTmpfs))
	list(f, "secret", "", "Add secret to container", appendTo(&s.Secrets, parseSecret))
	f.BoolVar(&o.rootfs, "rootfs", false, "The first argument is not an image but a folder that is the root filesystem; DIR:O writes into a layer of the container's own")
	f.BoolVar(&s.ReadOnly, "read-only", false, "Mount the container's root filesystem as read only")

	list(f, "publish", "p", "Publish a container's port(s) to the host", func(v string) error {
		ports, err := parsePorts(v)
		s.Network.Ports = append(s.Network.Ports, ports...)
		return err
	})
	o.networks.declare(f)
	parsed(f, "net", "", "network", "Connect a container to a network", o.networks.add)
	list(f, "net-alias", "", "Add network-scoped alias for the container", appendTo(&o.networks.place.Aliases, plain))
	_ = f.MarkHidden("net")
	_ = f.MarkHidden("net-alias")
	f.StringVarP(&s.Hostname, "hostname", "h", "", "Container host name")
	list(f, "add-host", "", "Add a custom host-to-IP mapping (host:ip)", appendTo(&s.Network.AddHosts, parseHost))
	list(f, "dns", "", "Set custom DNS servers", appendTo(&s.Network.DNS, parseIP))

	f.StringVar(&s.Name, "name", "", "Assign a name to the container")
	f.StringVar(&s.Log.Driver, "log-driver", "", "Logging driver for the container: json-file, k8s-file, journald, syslog or none (default json-file)")
	list(f, "log-opt", "", "Log driver options", appendTo(&o.logOptions, plain))
	f.StringVar(&s.Pod, "pod", "", "Run the container in a pod; new:NAME makes one")
	f.StringVar(&o.podFile, "pod-id-file", "", "Read the pod ID from the file")
	list(f, "label", "l", "Set meta data on a container", appendTo(&o.labels, plain))
	list(f, "label-file", "", "Read in a line delimited file of labels", appendTo(&o.labelFiles, plain))
	f.StringVar(&o.cidfile, "cidfile", "", "Write the container ID to the file")
	parsed(f, "restart", "", "string", "Restart policy to apply when a container exits: no, always, unless-stopped, on-failure[:MAX]", assign(&s.Restart, parseRestart))
	f.BoolVar(&s.AutoRemove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	parsed(f, "pull", "", "string", "Pull image before running (always, missing, never; lazy reads it while it runs) (default missing)", assign(&s.Pull, parsePull))
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the pull output")
	parsed(f, "platform", "", "string", "Set platform if the image has several", assign(&s.Platform, parsePlatform))
	return o
}

// processFlags are about the container's process.
func (o *specFlags) processFlags(s *api.ContainerSpec, f *pflag.FlagSet) {
	f.BoolVarP(&s.Interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVarP(&s.TTY, "tty", "t", false, "Allocate a pseudo-TTY")
	list(f, "env", "e", "Set environment variables", appendTo(&o.env, parseEnv))
	list(f, "env-file", "", "Read in a file of environment variables", appendTo(&o.envFiles, plain))
	f.StringVarP(&s.WorkingDir, "workdir", "w", "", "Working directory inside the container")
	f.StringVarP(&s.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.StringVar(&o.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	f.BoolVar(&s.Init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	list(f, "ulimit", "", "Ulimit options", appendTo(&s.Ulimits, parseUlimit))
	f.StringVar(&s.StopSignal, "stop-signal", "", "Signal to stop the container")
	f.IntVar(&o.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
}

// healthFlags are about whether the container is well.
func (o *specFlags) healthFlags(f *pflag.FlagSet) {
	h := &o.health
	parsed(f, "health-cmd", "", "string", "Command to run to check health", func(s string) error {
		h.Test = []string{"CMD-SHELL", s}
		switch s {
		case "":
			h.Test = nil
		case "none": // podman's way to say it
			h.Test = []string{"NONE"}
		}
		return nil
	})
	f.DurationVar(&h.Interval, "health-interval", 0, "Time between running the check (ms|s|m|h) (default 30s)")
	f.IntVar(&h.Retries, "health-retries", 0, "Consecutive failures needed to report unhealthy (default 3)")
	f.DurationVar(&h.StartInterval, "health-start-interval", 0, "Time between running the check during the start period (ms|s|m|h) (default 5s)")
	f.DurationVar(&h.StartPeriod, "health-start-period", 0, "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)")
	f.DurationVar(&h.Timeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h) (default 30s)")
	parsed(f, "health-on-failure", "", "string", "Action to take once the container turns unhealthy: none, kill, restart, stop", func(s string) error {
		if h.OnFailure = s; s == "none" {
			h.OnFailure = ""
		}
		return nil
	})
	f.BoolVar(&o.noHealth, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")
}

// healthOf is what the flags say of the check; nil: it is the image's.
func (o *specFlags) healthOf(f *pflag.FlagSet) (*api.HealthSpec, error) {
	given := ""
	f.Visit(func(flag *pflag.Flag) {
		if strings.HasPrefix(flag.Name, "health-") {
			given = flag.Name
		}
	})
	switch {
	case o.noHealth && given != "":
		return nil, errors.New("--no-healthcheck conflicts with --health-* options")
	case o.noHealth:
		return &api.HealthSpec{Healthcheck: api.Healthcheck{Test: []string{"NONE"}}}, nil
	case given == "":
		return nil, nil
	}
	return &o.health, nil
}

// boundaryFlags are about what the container may do and use.
func (o *specFlags) boundaryFlags(s *api.ContainerSpec, f *pflag.FlagSet) {
	parsed(f, "isolation", "", "level", "Boundary of the container: chroot, container, container,userns, gvisor or vm (env BRIG_ISOLATION)", assign(&s.Isolation, parseIsolation))
	limitFlags(f, &s.Limits)
	deviceFlags(f, &s.Limits)
	list(f, "cap-add", "", "Add Linux capabilities", appendTo(&s.CapAdd, parseCapability))
	list(f, "cap-drop", "", "Drop Linux capabilities", appendTo(&s.CapDrop, parseCapability))
	list(f, "security-opt", "", "Security Options", appendTo(&s.Security, parseSecurity))
	f.BoolVar(&s.Privileged, "privileged", false, "Give extended privileges to this container")
	list(f, "storage-opt", "", "Storage driver options for the container: size=BYTES", storageOption(&s.StorageSize))
	parsed(f, "shm-size", "", "bytes", "Size of /dev/shm", assign(&s.ShmSize, parseBytes))
	f.IntVar(&s.OOMScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	parsed(f, "sysctl", "", "map", "Sysctl options", pairs("sysctl", &s.Sysctls))
	parsed(f, "annotation", "", "map", "Add an annotation to the container (passed through to the OCI runtime)", pairs("annotation", &s.Annotations))
	userNSFlags(f, &s.UserNS)
	list(f, "device", "", "Add a host device to the container: a path, or a CDI device (vendor.com/class=name)", appendTo(&s.Devices, parseDevice))
	list(f, "cdi-spec-dir", "", "Folder with specifications of CDI devices (default /etc/cdi and /var/run/cdi)", appendTo(&s.CDIDirs, filepath.Abs))
}

// storageOption reads size=BYTES, the only one.
func storageOption(size *int64) func(string) error {
	return func(s string) (err error) {
		key, val, _ := strings.Cut(s, "=")
		if key != "size" {
			return api.Errorf(api.Unsupported, "--storage-opt %s is not supported: use size=BYTES", key)
		}
		*size, err = parseBytes(val)
		return err
	}
}

// pairs returns a function that keeps KEY=VALUE.
func pairs(what string, to *map[string]string) func(string) error {
	return func(s string) error {
		key, val, found := strings.Cut(s, "=")
		if !found || key == "" {
			return fmt.Errorf("invalid %s %q: use NAME=VALUE", what, s)
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[key] = val
		return nil
	}
}

// finish returns the spec for an image and its command, args as they stand behind the flags.
func (o *specFlags) finish(f *pflag.FlagSet, args []string) (api.ContainerSpec, error) {
	s := o.spec
	s.Image, s.Command = args[0], args[1:]
	if o.rootfs {
		var err error
		if s.Rootfs, err = parseRootfs(f, args[0]); err != nil {
			return s, err
		}
		s.Image = s.Rootfs.Dir
	}
	if len(s.Command) == 0 {
		s.Command = nil
	}
	if f.Changed("entrypoint") {
		s.Entrypoint = &[]string{}
		if o.entrypoint != "" {
			s.Entrypoint = &[]string{o.entrypoint}
		}
	}
	if f.Changed("stop-timeout") {
		s.StopTimeout = &o.stopTimeout
	}
	var err error
	if s.Isolation, err = isolationOf(f, s.Isolation); err != nil {
		return s, err
	}
	s.IsolationUsual = s.Isolation != "" && !f.Changed("isolation")
	hardened := s.Isolation == isolationUserNS
	if hardened {
		s.Isolation = api.IsolationContainer
		if err := harden(f, &s.UserNS); err != nil {
			return s, err
		}
	}
	if err := checkLimits(f, &s.Limits); err != nil {
		return s, err
	}
	if s.Health, err = o.healthOf(f); err != nil {
		return s, err
	}
	if s.Env, err = environment(o.envFiles, o.env); err != nil {
		return s, err
	}
	if len(o.logOptions) > 0 {
		if s.Log.Options, err = labels(nil, o.logOptions); err != nil {
			return s, err
		}
	}
	if s.Labels, err = labels(o.labelFiles, o.labels); err != nil {
		return s, err
	}
	if s.AutoRemove && s.Restart.Name != "" && s.Restart.Name != api.RestartNo {
		return s, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	if err := finishUserNS(f, &s.UserNS); err != nil {
		return s, err
	}
	s.Caller = caller()
	s.Mounts = append(append(o.volumes, o.mounts...), o.tmpfs...)
	if hardened && s.UserNS.Mode != "" && s.Caller == 0 {
		showOwners(s.Mounts)
	}
	seen := make(map[string]bool, len(s.Mounts))
	for _, m := range s.Mounts {
		if seen[m.Target] {
			return s, fmt.Errorf("duplicate mount point: %s: mount one thing there", m.Target)
		}
		seen[m.Target] = true
	}
	if err := o.networks.enter(&s.Network); err != nil {
		return s, err
	}
	if err := o.podman.apply(&s); err != nil {
		return s, err
	}
	if mode := s.Network.Mode; len(s.Network.Ports) > 0 && (mode == "host" || mode == "none") {
		fmt.Fprintf(o.app.streams.Stderr, "WARNING: Published ports are discarded when using %s network mode\n", mode)
		s.Network.Ports = nil
	}
	return s, nil
}

// holdCIDFile makes the file of --cidfile before the container, so that two runs cannot use one file. keep writes the ID into it,
// or with an empty ID removes it again.
func (o *specFlags) holdCIDFile() (keep func(id string) error, err error) {
	if o.cidfile == "" {
		return func(string) error { return nil }, nil
	}
	f, err := os.OpenFile(o.cidfile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", o.cidfile)
	}
	if err != nil {
		return nil, fmt.Errorf("container ID file: %w", err)
	}
	return func(id string) error {
		if id == "" {
			f.Close()
			return os.Remove(o.cidfile)
		}
		_, err := io.WriteString(f, id)
		return errors.Join(err, f.Close())
	}, nil
}

// parseRootfs reads DIR[:O], in the place of an image.
func parseRootfs(f *pflag.FlagSet, s string) (r api.Rootfs, err error) {
	for _, name := range []string{"pull", "platform", "os", "arch", "variant", "authfile", "tls-verify"} {
		if f.Changed(name) {
			return r, fmt.Errorf("conflicting options: --rootfs and --%s, which is for an image", name)
		}
	}
	dir := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		switch option := s[i+1:]; {
		case option == "O":
			dir, r.Overlay = s[:i], true
		case option == "idmap" || strings.HasPrefix(option, "idmap="):
			return r, api.Errorf(api.Unsupported, "--rootfs %s: the option idmap is not supported: a user namespace is for the files of an image", s)
		}
	}
	if dir == "" {
		return r, errors.New("--rootfs: the folder is missing")
	}
	r.Dir, err = filepath.Abs(dir)
	return r, err
}

func parsePull(s string) (api.PullPolicy, error) {
	switch p := api.PullPolicy(s); p {
	case api.PullAlways, api.PullMissing, api.PullNever, api.PullLazy:
		return p, nil
	}
	return "", fmt.Errorf("invalid pull option: '%s': must be one of \"always\", \"lazy\", \"missing\" or \"never\"", s)
}

// isolationOf is the level that the flag says, else the environment.
func isolationOf(f *pflag.FlagSet, given api.Isolation) (api.Isolation, error) {
	level := os.Getenv("BRIG_ISOLATION")
	if level == "" || f.Changed("isolation") {
		return given, nil
	}
	l, err := parseIsolation(level)
	if err != nil {
		return l, api.Errorf(api.KindOf(err), "BRIG_ISOLATION: %w", err)
	}
	return l, nil
}

// parseIsolation reads a level's name, or docker's word for the usual one.
func parseIsolation(s string) (api.Isolation, error) {
	switch level := api.Isolation(s); level {
	case "", "default":
		return api.IsolationContainer, nil
	case api.IsolationChroot, api.IsolationContainer, isolationUserNS, api.IsolationGVisor, api.IsolationVM:
		return level, nil
	}
	return "", api.Errorf(api.InvalidArgument, "unknown isolation level %q: the levels are chroot, container, container,userns, gvisor and vm", s)
}

// parseRestart reads docker's no, always, unless-stopped and on-failure[:MAX].
func parseRestart(s string) (api.RestartPolicy, error) {
	name, most, counted := strings.Cut(s, ":")
	p := api.RestartPolicy{Name: name}
	switch name {
	case "", api.RestartNo, api.RestartAlways, api.RestartUnlessStopped, api.RestartOnFailure:
	default:
		return p, fmt.Errorf("invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", name)
	}
	if !counted {
		return p, nil
	}
	n, err := strconv.Atoi(most)
	switch {
	case err != nil:
		return p, errors.New("maximum retry count must be an integer")
	case name != api.RestartOnFailure:
		return p, errors.New("invalid restart policy: maximum retry count can only be used with 'on-failure'")
	case n < 0:
		return p, errors.New("invalid restart policy: maximum retry count cannot be negative")
	}
	p.Max = n
	return p, nil
}

func parsePlatform(s string) (string, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" || len(parts) < 2 || len(parts) > 3 {
			return "", fmt.Errorf("invalid platform %q: use os/arch or os/arch/variant, as in linux/arm64/v8", s)
		}
	}
	return strings.ToLower(s), nil
}

// parseCapability writes a capability as the kernel's headers do: CAP_ and upper case; ALL stays ALL.
func parseCapability(s string) (string, error) {
	c := strings.ToUpper(strings.TrimSpace(s))
	if c == "" {
		return "", errors.New("empty capability: name one as NET_ADMIN, or ALL")
	}
	if c == "ALL" || strings.HasPrefix(c, "CAP_") {
		return c, nil
	}
	return "CAP_" + c, nil
}

// parseSecurity lets through what the engine knows; docker's older form with a colon becomes the one with an equals sign.
func parseSecurity(s string) (string, error) {
	key, val, found := strings.Cut(s, "=")
	if !found {
		key, val, found = strings.Cut(s, ":")
	}
	switch {
	case (key == "no-new-privileges" || key == "nesting") && !found:
		return s, nil
	case (key == "no-new-privileges" || key == "nesting") && (val == "true" || val == "false"), key == "seccomp" && val != "":
		return key + "=" + val, nil
	case key == "no-new-privileges" || key == "nesting" || key == "seccomp":
		return "", fmt.Errorf("invalid --security-opt: %q", s)
	}
	return "", api.Errorf(api.Unsupported, "--security-opt %s is not supported: use seccomp=unconfined, seccomp=FILE, nesting or no-new-privileges", key)
}

// parseDevice reads PATH[:PATH-IN-CONTAINER][:PERMISSIONS].
func parseDevice(s string) (api.DeviceSpec, error) {
	if kind, name, ok := strings.Cut(s, "="); ok && !strings.HasPrefix(s, "/") && strings.Count(kind, "/") == 1 && name != "" {
		return api.DeviceSpec{Source: s}, nil // of the Container Device Interface
	}
	parts := strings.Split(s, ":")
	d := api.DeviceSpec{Source: parts[0], Target: parts[0], Permissions: "rwm"}
	switch {
	case len(parts) == 2 && deviceMode(parts[1]):
		d.Permissions = parts[1]
	case len(parts) == 2:
		d.Target = parts[1]
	case len(parts) == 3:
		d.Target, d.Permissions = parts[1], parts[2]
	case len(parts) > 3:
		return d, fmt.Errorf("invalid device specification: %s", s)
	}
	if d.Target == "" {
		d.Target = d.Source
	}
	if !strings.HasPrefix(d.Source, "/") || !strings.HasPrefix(d.Target, "/") {
		return d, fmt.Errorf("invalid device specification: %s: paths must be absolute", s)
	}
	if !deviceMode(d.Permissions) {
		return d, fmt.Errorf("invalid device mode: %s: use letters of rwm", d.Permissions)
	}
	return d, nil
}

// deviceMode reports whether s has only letters of rwm, each at most once.
func deviceMode(s string) bool {
	for i, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(s[:i], c) {
			return false
		}
	}
	return s != ""
}
