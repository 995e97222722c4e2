package cli

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brig/api"
)

// infoView is api.Info with docker's field names, for --format, and podman's. What is said of a daemon that Brig has not is left out.
type infoView struct {
	ID                 string
	Containers         int
	ContainersRunning  int
	ContainersPaused   int
	ContainersStopped  int
	Images             int
	Driver             string
	DriverStatus       [][2]string
	Plugins            infoPlugins
	MemoryLimit        bool
	SwapLimit          bool
	CPUCfsPeriod       bool `json:"CpuCfsPeriod"`
	CPUCfsQuota        bool `json:"CpuCfsQuota"`
	CPUShares          bool
	CPUSet             bool
	PidsLimit          bool
	OomKillDisable     bool
	IPv4Forwarding     bool
	Debug              bool
	SystemTime         string
	CgroupDriver       string
	CgroupVersion      string
	KernelVersion      string
	OperatingSystem    string
	OSVersion          string
	OSType             string
	Architecture       string
	IndexServerAddress string
	NCPU               int
	MemTotal           int64
	GenericResources   []any
	Name               string
	Labels             []string
	ExperimentalBuild  bool
	ServerVersion      string
	Runtimes           map[string]infoRuntime
	DefaultRuntime     string
	Swarm              infoSwarm
	LiveRestoreEnabled bool // a container lives on without whoever started it
	InitBinary         string
	DockerRootDir      string
	HTTPProxy          string `json:"HttpProxy"`
	HTTPSProxy         string `json:"HttpsProxy"`
	NoProxy            string
	StateDir           string
	Isolation          []api.IsolationState
	SecurityOptions    []string
	LoggingDriver      string
	CDISpecDirs        []string
	// DefaultAddressPools is empty: a subnet is any private one that nothing on the machine uses.
	DefaultAddressPools []any
	Warnings            []string
	ClientInfo          infoClient

	// podman's, as far as scripts ask for them
	Host    infoHost    `json:"host"`
	Store   infoStore   `json:"store"`
	Version infoVersion `json:"version"`
}

type infoPlugins struct {
	Volume, Network, Authorization, Log []string
}

type infoRuntime struct {
	Path string `json:"path"`
}

type infoSwarm struct {
	NodeID, NodeAddr, LocalNodeState string
	ControlAvailable                 bool
	Error                            string
	RemoteManagers                   []any
}

type infoClient struct {
	Debug bool
	versionPart
	Context  string
	Plugins  []any
	Warnings []string
}

type infoHost struct {
	Arch              string   `json:"arch"` // Go's word for it, as podman has it
	CgroupManager     string   `json:"cgroupManager"`
	CgroupsVersion    string   `json:"cgroupVersion"` // v1 or v2
	CgroupControllers []string `json:"cgroupControllers"`
	CPUs              int      `json:"cpus"`
	Distribution      struct {
		Distribution string `json:"distribution"`
		Version      string `json:"version"`
		Codename     string `json:"codename,omitempty"`
	} `json:"distribution"`
	EventLogger string `json:"eventLogger"`
	Hostname    string `json:"hostname"`
	Kernel      string `json:"kernel"`
	LogDriver   string `json:"logDriver"`
	MemFree     int64  `json:"memFree"`
	MemTotal    int64  `json:"memTotal"`
	OCIRuntime  struct {
		Name    string `json:"name"`
		Path    string `json:"path"`
		Version string `json:"version"`
	} `json:"ociRuntime"`
	OS              string `json:"os"`
	ServiceIsRemote bool   `json:"serviceIsRemote"`
	Security        struct {
		AppArmorEnabled bool `json:"apparmorEnabled"` // no profile is put on a container
		Rootless        bool `json:"rootless"`
		SECCOMPEnabled  bool `json:"seccompEnabled"`
		SELinuxEnabled  bool `json:"selinuxEnabled"` // no label is
	} `json:"security"`
	SwapFree  int64  `json:"swapFree"`
	SwapTotal int64  `json:"swapTotal"`
	Uptime    string `json:"uptime"`
}

type infoStore struct {
	ContainerStore struct {
		Number  int `json:"number"`
		Paused  int `json:"paused"`
		Running int `json:"running"`
		Stopped int `json:"stopped"`
	} `json:"containerStore"`
	GraphDriverName    string            `json:"graphDriverName"`
	GraphRoot          string            `json:"graphRoot"`
	GraphRootAllocated int64             `json:"graphRootAllocated"`
	GraphRootUsed      int64             `json:"graphRootUsed"`
	GraphStatus        map[string]string `json:"graphStatus"`
	ImageStore         struct {
		Number int `json:"number"`
	} `json:"imageStore"`
	RunRoot    string `json:"runRoot"`
	VolumePath string `json:"volumePath"`
}

type infoVersion struct {
	Version, GoVersion, GitCommit, OsArch, Os string
}

// The names of Brig's runtime, and of what --init runs.
const (
	runtimeName = "brig-oci"
	initName    = "brig-init"
)

func (a *app) viewOfInfo(i *api.Info) infoView {
	has := func(controllers ...string) bool {
		return slices.ContainsFunc(controllers, func(c string) bool { return slices.Contains(i.Controllers, c) })
	}
	v := infoView{
		ID: i.ID, Containers: i.Containers, ContainersRunning: i.Running, ContainersPaused: i.Paused, ContainersStopped: i.Stopped, Images: i.Images, Driver: i.StorageDriver,
		Plugins: plugins(), MemoryLimit: has("memory"), SwapLimit: i.SwapLimit, CPUCfsPeriod: has("cpu"), CPUCfsQuota: has("cpu"), CPUShares: has("cpu"), CPUSet: has("cpuset"),
		PidsLimit: has("pids"), OomKillDisable: has("memory") && i.CgroupVersion == "1", IPv4Forwarding: i.IPv4Forwarding, Debug: a.debug, SystemTime: time.Now().Format(time.RFC3339Nano),
		CgroupDriver: i.CgroupDriver, CgroupVersion: i.CgroupVersion, KernelVersion: i.KernelVersion, OperatingSystem: i.OperatingSystem, OSVersion: release(i, "VERSION_ID"),
		OSType: i.OSType, Architecture: i.Architecture, IndexServerAddress: "https://index.docker.io/v1/", NCPU: i.CPUs, MemTotal: i.Memory, Name: i.Hostname, Labels: []string{},
		ServerVersion: i.Version, Runtimes: map[string]infoRuntime{runtimeName: {i.Runtime}}, DefaultRuntime: runtimeName, Swarm: infoSwarm{LocalNodeState: "inactive"},
		LiveRestoreEnabled: true, InitBinary: initName, DockerRootDir: i.Root, StateDir: i.State, Isolation: i.Isolation, SecurityOptions: i.SecurityOptions,
		LoggingDriver: api.LogJSONFile, CDISpecDirs: []string{"/etc/cdi", "/var/run/cdi"}, Warnings: i.Warnings,
		HTTPProxy: proxy("HTTP_PROXY"), HTTPSProxy: proxy("HTTPS_PROXY"), NoProxy: proxy("NO_PROXY"),
		ClientInfo: infoClient{Debug: a.debug, versionPart: thisVersion(), Context: "default", Plugins: []any{}},
	}
	if i.Filesystem != "" {
		v.DriverStatus = [][2]string{{"Backing Filesystem", i.Filesystem}}
	}
	v.podman(i)
	return v
}

// plugins are what Brig has built in, in the place of plugins.
func plugins() infoPlugins {
	return infoPlugins{
		Volume: []string{"local"}, Network: []string{api.DriverBridge, "host", api.DriverIPvlan, api.DriverMacvlan, "none"},
		Log: []string{api.LogJournald, api.LogJSONFile, api.LogK8sFile, api.LogNone, api.LogSyslog},
	}
}

// release is a value of the machine's os-release.
func release(i *api.Info, key string) string {
	for _, line := range i.OSRelease {
		if v, ok := strings.CutPrefix(line, key+"="); ok {
			return v
		}
	}
	return ""
}

// proxy is what a pull would use.
func proxy(name string) string { return first(os.Getenv(name), os.Getenv(strings.ToLower(name))) }

// podman fills in podman's part.
func (v *infoView) podman(i *api.Info) {
	h := &v.Host
	*h = infoHost{
		Arch: runtime.GOARCH, CgroupManager: i.CgroupDriver, CgroupsVersion: "v" + i.CgroupVersion, CgroupControllers: i.Controllers, CPUs: i.CPUs, EventLogger: "file",
		Hostname: i.Hostname, Kernel: i.KernelVersion, LogDriver: api.LogJSONFile, MemFree: i.FreeMemory, MemTotal: i.Memory, OS: i.OSType, SwapFree: i.FreeSwap, SwapTotal: i.Swap,
		Uptime: (time.Duration(i.Uptime) * time.Second).String(),
	}
	h.Distribution.Distribution, h.Distribution.Version, h.Distribution.Codename = first(release(i, "ID"), "unknown"), first(release(i, "VERSION_ID"), "unknown"), release(i, "VERSION_CODENAME")
	h.OCIRuntime.Name, h.OCIRuntime.Path, h.OCIRuntime.Version = runtimeName, i.Runtime, i.Version
	h.Security.Rootless = slices.Contains(i.SecurityOptions, "name=rootless")
	h.Security.SECCOMPEnabled = true
	s := &v.Store
	*s = infoStore{GraphDriverName: i.StorageDriver, GraphRoot: i.Root, GraphRootAllocated: i.Disk, GraphRootUsed: i.DiskUsed, RunRoot: i.State, VolumePath: i.Volumes, GraphStatus: map[string]string{}}
	s.ContainerStore.Number, s.ContainerStore.Paused, s.ContainerStore.Running, s.ContainerStore.Stopped = i.Containers, i.Paused, i.Running, i.Stopped
	s.ImageStore.Number = i.Images
	for _, pair := range v.DriverStatus {
		s.GraphStatus[pair[0]] = pair[1]
	}
	c := v.ClientInfo
	v.Version = infoVersion{Version: i.Version, GoVersion: c.GoVersion, GitCommit: c.GitCommit, OsArch: c.Os + "/" + c.Arch, Os: c.Os}
}

func (a *app) info() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "info [OPTIONS]",
		Short:             "Display system-wide information",
		Example:           "  brig info\n  brig info --format '{{.CgroupVersion}}'",
		Args:              maxArgs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, err := a.engine().Info(cmd.Context())
			if err != nil {
				return err
			}
			if format == "" {
				a.printInfo(info)
				return nil
			}
			return printObject(a.streams.Stdout, format, a.viewOfInfo(&info))
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	return cmd
}

func (a *app) printInfo(i api.Info) {
	a.printf("Containers: %d\n Running: %d\n Paused: %d\n Stopped: %d\nImages: %d\n", i.Containers, i.Running, i.Paused, i.Stopped, i.Images)
	a.printf("Version: %s\nStorage Driver: %s\n", i.Version, i.StorageDriver)
	if i.Filesystem != "" {
		a.printf(" Backing Filesystem: %s\n", i.Filesystem)
	}
	p := plugins()
	a.printf("Logging Driver: %s\nCgroup Driver: %s\nCgroup Version: %s\n", api.LogJSONFile, i.CgroupDriver, i.CgroupVersion)
	a.printf("Plugins:\n Volume: %s\n Network: %s\n Log: %s\n", strings.Join(p.Volume, " "), strings.Join(p.Network, " "), strings.Join(p.Log, " "))
	a.printf("Swarm: inactive\nRuntimes: %s\nDefault Runtime: %s\nInit Binary: %s\n", runtimeName, runtimeName, initName)
	a.printf("Isolation:\n")
	for _, level := range i.Isolation {
		state := "available"
		if !level.Available {
			state = "not available"
			if level.Reason != "" {
				state += ": " + level.Reason
			}
		} else if level.Detail != "" {
			state += " (" + level.Detail + ")"
		}
		a.printf(" %s: %s\n", level.Level, state)
	}
	a.printf("Security Options:\n")
	for _, s := range i.SecurityOptions {
		name, rest, more := strings.Cut(strings.TrimPrefix(s, "name="), ",")
		a.printf(" %s\n", name)
		if key, val, ok := strings.Cut(rest, "="); more && ok {
			a.printf("  %s: %s\n", strings.ToUpper(key[:min(1, len(key))])+key[min(1, len(key)):], val)
		}
	}
	a.printf("Kernel Version: %s\nOperating System: %s\nOSType: %s\nArchitecture: %s\n", i.KernelVersion, i.OperatingSystem, i.OSType, i.Architecture)
	a.printf("CPUs: %d\nTotal Memory: %s\nName: %s\n", i.CPUs, humanMemory(i.Memory), i.Hostname)
	if i.ID != "" {
		a.printf("ID: %s\n", i.ID)
	}
	a.printf("Root Dir: %s\nState Dir: %s\n", i.Root, i.State)
	for _, w := range i.Warnings {
		fmt.Fprintln(a.streams.Stderr, "WARNING:", w)
	}
}
