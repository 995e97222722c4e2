package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"brig/api"
)

// infoView is api.Info with docker's field names, for --format.
type infoView struct {
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Images            int
	Driver            string
	CgroupDriver      string
	CgroupVersion     string
	KernelVersion     string
	OperatingSystem   string
	OSType            string
	Architecture      string
	NCPU              int
	MemTotal          int64
	Name              string
	ServerVersion     string
	DockerRootDir     string
	StateDir          string
	Isolation         []api.IsolationState
	SecurityOptions   []string
	LoggingDriver     string
	Warnings          []string

	// podman's, as far as scripts ask for them
	Host  infoHost
	Store infoStore
}

type infoHost struct {
	CgroupManager string
	CgroupVersion string // v1 or v2
	CPUs          int    `json:"Cpus"`
	Hostname      string
	Kernel        string
	MemTotal      int64
	OS            string `json:"Os"`
	Security      struct {
		Rootless       bool
		SECCOMPEnabled bool `json:"SeccompEnabled"`
	}
}

type infoStore struct{ GraphDriverName, GraphRoot, RunRoot string }

// podman fills in podman's part.
func (v *infoView) podman(i *api.Info) {
	v.Host = infoHost{CgroupManager: i.CgroupDriver, CgroupVersion: "v" + i.CgroupVersion, CPUs: i.CPUs, Hostname: i.Hostname, Kernel: i.KernelVersion, MemTotal: i.Memory, OS: i.OSType}
	v.Host.Security.Rootless = slices.Contains(i.SecurityOptions, "name=rootless")
	v.Host.Security.SECCOMPEnabled = true
	v.Store = infoStore{i.StorageDriver, i.Root, i.State}
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
			view := infoView{
				Containers: info.Containers, ContainersRunning: info.Running, ContainersPaused: info.Paused,
				ContainersStopped: info.Stopped, Images: info.Images, Driver: info.StorageDriver, CgroupDriver: info.CgroupDriver,
				CgroupVersion: info.CgroupVersion, KernelVersion: info.KernelVersion, OperatingSystem: info.OperatingSystem,
				OSType: info.OSType, Architecture: info.Architecture, NCPU: info.CPUs, MemTotal: info.Memory, Name: info.Hostname,
				ServerVersion: info.Version, DockerRootDir: info.Root, StateDir: info.State, Isolation: info.Isolation,
				SecurityOptions: info.SecurityOptions, Warnings: info.Warnings, LoggingDriver: api.LogJSONFile,
			}
			view.podman(&info)
			return printObject(a.streams.Stdout, format, view)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Format output using a custom template: 'json' or a Go template")
	return cmd
}

func (a *app) printInfo(i api.Info) {
	a.printf("Containers: %d\n Running: %d\n Paused: %d\n Stopped: %d\nImages: %d\n", i.Containers, i.Running, i.Paused, i.Stopped, i.Images)
	a.printf("Version: %s\nStorage Driver: %s\nCgroup Driver: %s\nCgroup Version: %s\n", i.Version, i.StorageDriver, i.CgroupDriver, i.CgroupVersion)
	a.printf("Isolation:\n")
	for _, level := range i.Isolation {
		state := "available"
		if !level.Available {
			state = "not available"
			if level.Reason != "" {
				state += ": " + level.Reason
			}
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
	a.printf("Root Dir: %s\nState Dir: %s\n", i.Root, i.State)
	for _, w := range i.Warnings {
		fmt.Fprintln(a.streams.Stderr, "WARNING:", w)
	}
}
