package cli

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"brig/api"
)

// The views below are what docker inspect prints: field names and forms are those of the Docker Engine API, as far as Brig has
// something to say. Scripts rely on them, so a field that is there is never renamed.

type inspectContainer struct {
	ID              string `json:"Id"`
	Created         string
	Path            string
	Args            []string
	State           inspectState
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string
	RestartCount    int
	Driver          string
	Platform        string
	MountLabel      string // labels and profiles are refused, so there are none
	ProcessLabel    string
	AppArmorProfile string
	Pod             string `json:",omitempty"`
	Rootfs          string `json:",omitempty"`
	SizeRw          *int64 `json:",omitempty"`
	SizeRootFs      *int64 `json:",omitempty"`
	HostConfig      inspectHostConfig
	Mounts          []inspectMount
	Config          inspectConfig
	NetworkSettings inspectNetwork
}

type inspectState struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
	Health     *api.Health `json:",omitempty"`
}

type inspectHostConfig struct {
	Binds                []string
	IpcMode              string
	PidMode              string
	UTSMode              string
	CgroupnsMode         string
	CgroupParent         string
	VolumesFrom          []string
	GroupAdd             []string
	DNSSearch            []string `json:"DnsSearch"`
	DNSOptions           []string `json:"DnsOptions"`
	DeviceCgroupRules    []string
	PublishAllPorts      bool
	NetworkMode          string
	PortBindings         map[string][]portBinding
	LogConfig            inspectLog
	RestartPolicy        inspectRestart
	AutoRemove           bool
	CapAdd               []string
	CapDrop              []string
	DNS                  []string `json:"Dns"`
	ExtraHosts           []string
	Privileged           bool
	UsernsMode           string
	ReadonlyRootfs       bool
	SecurityOpt          []string
	ShmSize              int64
	OomScoreAdj          int
	Sysctls              map[string]string `json:",omitempty"`
	Annotations          map[string]string `json:",omitempty"`
	Tmpfs                map[string]string `json:",omitempty"`
	Isolation            string
	Memory               int64
	MemorySwap           int64
	MemoryReservation    int64
	MemorySwappiness     *uint64
	OomKillDisable       bool
	NanoCPUs             int64  `json:"NanoCpus"`
	CPUShares            uint64 `json:"CpuShares"`
	CPUPeriod            uint64 `json:"CpuPeriod"`
	CPUQuota             int64  `json:"CpuQuota"`
	CpusetCpus           string
	CpusetMems           string
	BlkioWeight          uint16
	BlkioWeightDevice    []inspectWeight
	BlkioDeviceReadBps   []inspectRate
	BlkioDeviceWriteBps  []inspectRate
	BlkioDeviceReadIOps  []inspectRate
	BlkioDeviceWriteIOps []inspectRate
	PidsLimit            *int64
	Devices              []inspectDevice
	Ulimits              []inspectUlimit
	Init                 *bool `json:",omitempty"`
	Runtime              string

	// What Brig has not, as docker writes it where it was not asked for.
	ContainerIDFile    string
	VolumeDriver       string
	ConsoleSize        [2]int
	Cgroup             string
	Links              []string
	DeviceRequests     []string
	CPURealtimePeriod  int64 `json:"CpuRealtimePeriod"`
	CPURealtimeRuntime int64 `json:"CpuRealtimeRuntime"`
	CPUCount           int64 `json:"CpuCount"`
	CPUPercent         int64 `json:"CpuPercent"`
	IOMaximumIOps      uint64
	IOMaximumBandwidth uint64
}

type portBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

type inspectDevice struct{ PathOnHost, PathInContainer, CgroupPermissions string }

type inspectWeight struct {
	Path string
	Rate uint64 `json:"Weight"`
}

type inspectRate struct {
	Path string
	Rate uint64
}

type inspectLog struct {
	Type   string
	Config map[string]string
}

type inspectRestart struct {
	Name              string
	MaximumRetryCount int
}

type inspectUlimit struct {
	Name string
	Hard int64
	Soft int64
}

type inspectMount struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
}

type inspectConfig struct {
	Hostname     string
	Domainname   string
	User         string
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Tty          bool
	OpenStdin    bool
	Env          []string
	Cmd          []string
	Image        string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	OnBuild      []string // an image's, which a container does not take over
	Labels       map[string]string
	StopSignal   string           `json:",omitempty"`
	StopTimeout  *int             `json:",omitempty"`
	Healthcheck  *api.Healthcheck `json:",omitempty"`
}

type inspectNetwork struct {
	Bridge                 string
	SandboxID              string
	SandboxKey             string // the network namespace, while it runs
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int

	Ports           map[string][]portBinding
	inspectEndpoint // of the default bridge
	Networks        map[string]inspectEndpoint
}

type inspectEndpoint struct {
	IPAMConfig          *inspectIPAM `json:",omitempty"`
	Aliases             []string     `json:",omitempty"`
	MacAddress          string
	NetworkID           string `json:",omitempty"`
	EndpointID          string `json:",omitempty"`
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	GwPriority          *int     `json:",omitempty"` // of a place on a network, not of the settings
	DNSNames            []string `json:",omitempty"`
}

// dockerTime writes a time as docker does, the zero one included, which scripts compare with.
func dockerTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// containerView writes c as docker inspect does; root is the folder of durable data.
func containerView(c *api.Container, root string) inspectContainer {
	dir := filepath.Join(root, "container", c.ID)
	v := inspectContainer{
		ID: c.ID, Created: dockerTime(c.Created), Args: []string{}, State: stateView(c.State), Image: c.Image,
		ResolvConfPath: filepath.Join(dir, "resolv.conf"), HostnamePath: filepath.Join(dir, "hostname"), HostsPath: filepath.Join(dir, "hosts"),
		LogPath: filepath.Join(dir, "log"), Name: "/" + c.Name, RestartCount: c.State.Restarts, Driver: "overlay", Platform: "linux", Pod: c.Spec.Pod, Rootfs: c.Spec.Rootfs.Dir,
		HostConfig: hostConfigView(&c.Spec), Mounts: mountViews(c.Spec.Mounts, root), Config: configView(c), NetworkSettings: networkView(c),
	}
	if len(c.Args) > 0 {
		v.Path, v.Args = c.Args[0], c.Args[1:]
	}
	return v
}

func stateView(s api.State) inspectState {
	v := inspectState{
		Status: string(s.Status), Running: s.Status == api.StatusRunning || s.Status == api.StatusPaused || s.Status == api.StatusRestarting, Paused: s.Status == api.StatusPaused,
		Restarting: s.Status == api.StatusRestarting, Dead: s.Status == api.StatusDead, Pid: s.Pid, StartedAt: dockerTime(s.StartedAt), FinishedAt: dockerTime(time.Time{}),
		Health: s.Health,
	}
	if s.Exit != nil {
		v.FinishedAt = dockerTime(s.Exit.At)
		if !v.Running || v.Restarting {
			v.ExitCode, v.OOMKilled, v.Error = s.Exit.Code, s.Exit.OOMKilled, s.Exit.Error
		}
	}
	if s.Error != "" {
		v.Error = s.Error
	}
	return v
}

func hostConfigView(s *api.ContainerSpec) inspectHostConfig {
	v := inspectHostConfig{
		Binds: []string{}, NetworkMode: s.Network.Mode, PortBindings: map[string][]portBinding{}, AutoRemove: s.AutoRemove,
		CapAdd: s.CapAdd, CapDrop: s.CapDrop, DNS: list0(s.Network.DNS), ExtraHosts: []string{}, Privileged: s.Privileged, UsernsMode: string(s.UserNS.Mode),
		ReadonlyRootfs: s.ReadOnly, SecurityOpt: s.Security, Runtime: runtimeName, Isolation: string(s.Isolation), Memory: s.Limits.Memory,
		NanoCPUs: s.Limits.NanoCPUs, Devices: []inspectDevice{}, Ulimits: []inspectUlimit{},
	}
	v.limits(&s.Limits)
	v.ShmSize, v.OomScoreAdj, v.Sysctls, v.Annotations = s.ShmSize, s.OOMScoreAdj, s.Sysctls, s.Annotations
	if v.ShmSize == 0 {
		v.ShmSize = 64 << 20
	}
	v.LogConfig = inspectLog{first(s.Log.Driver, api.LogJSONFile), s.Log.Options}
	if v.LogConfig.Config == nil {
		v.LogConfig.Config = map[string]string{}
	}
	v.RestartPolicy = inspectRestart{first(s.Restart.Name, api.RestartNo), s.Restart.Max}
	switch {
	case v.NetworkMode == "":
		v.NetworkMode = defaultNetwork()
	case v.NetworkMode == api.NetworkOwn && len(s.Network.Networks) > 0:
		v.NetworkMode = s.Network.Networks[0].Network
	}
	v.IpcMode, v.PidMode, v.UTSMode, v.CgroupnsMode = first(s.Namespaces.IPC, api.NamespacePrivate), s.Namespaces.PID, s.Namespaces.UTS, s.Namespaces.CgroupNS
	v.CgroupParent, v.VolumesFrom, v.GroupAdd, v.DeviceCgroupRules, v.PublishAllPorts = s.CgroupParent, s.VolumesFrom, s.Groups, s.DeviceRules, s.Network.PublishAll
	v.DNSSearch, v.DNSOptions = list0(s.Network.Search), list0(s.Network.DNSOptions)
	if s.Limits.Pids != 0 {
		v.PidsLimit = &s.Limits.Pids
	}
	if s.Init {
		v.Init = &s.Init
	}
	for _, p := range s.Network.Ports {
		addBinding(v.PortBindings, p)
	}
	for _, h := range s.Network.AddHosts {
		v.ExtraHosts = append(v.ExtraHosts, h.Name+":"+h.IP)
	}
	for _, d := range s.Devices {
		v.Devices = append(v.Devices, inspectDevice{d.Source, d.Target, d.Permissions})
	}
	for _, u := range s.Ulimits {
		v.Ulimits = append(v.Ulimits, inspectUlimit{u.Name, u.Hard, u.Soft})
	}
	for _, m := range s.Mounts {
		switch {
		case m.Type == "tmpfs":
			if v.Tmpfs == nil {
				v.Tmpfs = map[string]string{}
			}
			v.Tmpfs[m.Target] = strings.Join(m.TmpfsOptions, ",")
		case m.Source != "":
			bind := m.Source + ":" + m.Target
			if m.ReadOnly {
				bind += ":ro"
			}
			v.Binds = append(v.Binds, bind)
		}
	}
	return v
}

// limits enters what else there is of limits.
func (v *inspectHostConfig) limits(l *api.Resources) {
	v.MemorySwap, v.MemoryReservation, v.MemorySwappiness, v.OomKillDisable = l.MemorySwap, l.MemoryReservation, l.MemorySwappiness, l.OOMKillDisable
	if l.Memory > 0 && l.MemorySwap == 0 {
		v.MemorySwap = 2 * l.Memory
	}
	v.CPUShares, v.CPUPeriod, v.CPUQuota, v.CpusetCpus, v.CpusetMems, v.BlkioWeight = l.CPUShares, l.CPUPeriod, l.CPUQuota, l.CPUs, l.MemoryNodes, l.BlkioWeight
	v.BlkioWeightDevice = []inspectWeight{}
	for _, d := range l.DeviceWeights {
		v.BlkioWeightDevice = append(v.BlkioWeightDevice, inspectWeight(d))
	}
	rates := func(flag string) []inspectRate {
		list := []inspectRate{}
		for _, d := range l.DeviceRates[flag] {
			list = append(list, inspectRate(d))
		}
		return list
	}
	v.BlkioDeviceReadBps, v.BlkioDeviceWriteBps = rates("read-bps"), rates("write-bps")
	v.BlkioDeviceReadIOps, v.BlkioDeviceWriteIOps = rates("read-iops"), rates("write-iops")
}

// list0 is a list that JSON writes as [] when it is empty.
func list0(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

// addBinding enters a published port under its name in the container, as 80/tcp.
func addBinding(m map[string][]portBinding, p api.PortSpec) {
	key := strconv.Itoa(int(p.ContainerPort)) + "/" + p.Protocol
	port := ""
	if p.HostPort != 0 {
		port = strconv.Itoa(int(p.HostPort))
	}
	if p.HostPortEnd != 0 {
		port += "-" + strconv.Itoa(int(p.HostPortEnd))
	}
	m[key] = append(m[key], portBinding{HostIP: p.HostIP, HostPort: port})
}

func mountViews(mounts []api.MountSpec, root string) []inspectMount {
	views := []inspectMount{}
	for _, m := range mounts {
		v := inspectMount{Type: m.Type, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly}
		if m.ReadOnly {
			v.Mode = "ro"
		}
		switch m.Type {
		case "bind":
			v.Propagation = m.Propagation
			if v.Propagation == "" {
				v.Propagation = "rprivate"
			}
		case "volume":
			v.Name, v.Driver, v.Source = m.Source, "local", ""
			if m.Source != "" {
				v.Source = filepath.Join(root, "volume", m.Source, "data")
			}
		}
		views = append(views, v)
	}
	return views
}

func configView(c *api.Container) inspectConfig {
	s, img := &c.Spec, &c.ImageConfig
	v := inspectConfig{
		Hostname: s.Hostname, Domainname: s.Domainname, User: first(s.User, img.User), ExposedPorts: img.ExposedPorts, Tty: s.TTY, OpenStdin: s.Interactive,
		Env: mergeEnv(img.Env, s.Env), Cmd: s.Command, Image: c.ImageName, Volumes: img.Volumes, WorkingDir: first(s.WorkingDir, img.WorkingDir),
		Entrypoint: img.Entrypoint, Labels: map[string]string{}, StopSignal: first(s.StopSignal, img.StopSignal), StopTimeout: s.StopTimeout,
		Healthcheck: c.Healthcheck,
	}
	if v.Hostname == "" {
		v.Hostname = shortID(c.ID)
	}
	if s.Entrypoint != nil {
		v.Entrypoint = *s.Entrypoint
	} else if v.Cmd == nil {
		v.Cmd = img.Cmd // --entrypoint also drops the image's command
	}
	for _, labels := range []map[string]string{img.Labels, s.Labels} {
		for k, val := range labels {
			v.Labels[k] = val
		}
	}
	return v
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// mergeEnv overlays the variables of a spec on the image's, whose places they keep; a bare name unsets.
func mergeEnv(base, over []string) []string {
	env := slices.Clone(list0(base))
	for _, e := range over {
		name, _, sets := strings.Cut(e, "=")
		i := slices.IndexFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		switch {
		case i >= 0 && sets:
			env[i] = e
		case i >= 0:
			env = slices.Delete(env, i, i+1)
		case sets:
			env = append(env, e)
		}
	}
	return env
}

func networkView(c *api.Container) inspectNetwork {
	v := inspectNetwork{Ports: map[string][]portBinding{}, Networks: map[string]inspectEndpoint{}}
	asked := c.Spec.Network
	if asked.Mode != api.NetworkOwn {
		v.Networks[firstNetwork(c)] = inspectEndpoint{}
	}
	for i := range asked.Networks { // as it is to be; below as it is
		v.Networks[asked.Networks[i].Network] = viewOfPlace(c, &api.Endpoint{}, &asked.Networks[i])
	}
	if c.State.Pid > 0 {
		v.SandboxID, v.SandboxKey = c.ID, "/proc/"+strconv.Itoa(c.State.Pid)+"/ns/net"
	}
	l := c.Link
	if l == nil {
		return v
	}
	for port := range c.ImageConfig.ExposedPorts {
		if !strings.Contains(port, "/") {
			port += "/tcp"
		}
		v.Ports[port] = nil // exposed, not published
	}
	for _, p := range l.Ports {
		addBinding(v.Ports, p)
	}
	for _, e := range l.All() {
		name := e.Network
		var spec *api.EndpointSpec
		if e.NetworkID == "" {
			name = firstNetwork(c)
		} else if i := slices.IndexFunc(asked.Networks, func(s api.EndpointSpec) bool { return s.Network == name }); i >= 0 {
			spec = &asked.Networks[i]
		}
		view := viewOfPlace(c, &e, spec)
		v.Networks[name] = view
		if e.NetworkID == "" {
			view.GwPriority = nil
			v.inspectEndpoint = view
		}
	}
	return v
}

// add enters an address by its family.
func (e *inspectEndpoint) add(prefix netip.Prefix) {
	if prefix.Addr().Is4() {
		e.IPAddress, e.IPPrefixLen = prefix.Addr().String(), prefix.Bits()
		return
	}
	e.GlobalIPv6Address, e.GlobalIPv6PrefixLen = prefix.Addr().String(), prefix.Bits()
}
