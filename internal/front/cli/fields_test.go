package cli

import (
	"io"
	"strings"
	"testing"
)

// TestDockersFields: what docker's documentation of --format and its inspect have, a template may name here too. What is lacking stands in lacks with its reason.
func TestDockersFields(t *testing.T) {
	lacks := map[string]string{
		"inspect .ExecIDs":                  "an exec has no life of its own beside its process",
		"inspect .GraphDriver":              "a container's root is mounted where it alone sees it: `brig diff`, `cp` and `export` read it",
		"inspect .Config.AttachStdin":       "what was attached when it was made says nothing of it",
		"inspect .Config.AttachStdout":      "as AttachStdin",
		"inspect .Config.AttachStderr":      "as AttachStdin",
		"inspect .Config.StdinOnce":         "as AttachStdin",
		"inspect .HostConfig.MaskedPaths":   "they are docker's own unless it is privileged: `config.json` in its folder has them",
		"inspect .HostConfig.ReadonlyPaths": "as MaskedPaths",
		"image inspect .DockerVersion":      "an image does not say what docker had a part in it",
		"volume inspect .Status":            "drivers' words, and there is none but local",
		"volume inspect .UsageData":         "docker too tells it in `system df` only",
	}
	for _, c := range []struct {
		verb   string
		data   any
		fields string
	}{
		{"ps", psRow{}, `.ID .Image .Command .CreatedAt .RunningFor .Ports .State .Status .Size .Names .Labels .Mounts .Networks .LocalVolumes .Platform`},
		{"ps", psRow{}, `.Label "x"`},
		{"images", imageRow{}, `.ID .Repository .Tag .Digest .CreatedSince .CreatedAt .Size .Containers .SharedSize .UniqueSize .VirtualSize`},
		{"volume ls", volumeRow{}, `.Name .Driver .Scope .Mountpoint .Labels .Availability .Group .Links .Size .Status`},
		{"network ls", networkRow{}, `.ID .Name .Driver .Scope .IPv4 .IPv6 .Internal .Labels .CreatedAt`},
		{"stats", statsRow{}, `.Container .Name .ID .CPUPerc .MemUsage .NetIO .BlockIO .MemPerc .PIDs`},
		{"history", historyRow{}, `.ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment`},
		{"system df", usageRow{}, `.Type .TotalCount .Active .Size .Reclaimable`},
		{"inspect", inspectContainer{}, `.ID .Created .Path .Args .Image .ResolvConfPath .HostnamePath .HostsPath .LogPath .Name .RestartCount .Driver .Platform .MountLabel .ProcessLabel .AppArmorProfile
			.ExecIDs .GraphDriver .Mounts .State.Status .State.Running .State.Paused .State.Restarting .State.OOMKilled .State.Dead .State.Pid .State.ExitCode .State.Error .State.StartedAt .State.FinishedAt
			.HostConfig.Binds .HostConfig.ContainerIDFile .HostConfig.LogConfig .HostConfig.NetworkMode .HostConfig.PortBindings .HostConfig.RestartPolicy .HostConfig.AutoRemove .HostConfig.VolumeDriver
			.HostConfig.VolumesFrom .HostConfig.ConsoleSize .HostConfig.CapAdd .HostConfig.CapDrop .HostConfig.CgroupnsMode .HostConfig.DNS .HostConfig.ExtraHosts .HostConfig.GroupAdd .HostConfig.IpcMode
			.HostConfig.Cgroup .HostConfig.Links .HostConfig.OomScoreAdj .HostConfig.PidMode .HostConfig.Privileged .HostConfig.PublishAllPorts .HostConfig.ReadonlyRootfs .HostConfig.SecurityOpt
			.HostConfig.UTSMode .HostConfig.UsernsMode .HostConfig.ShmSize .HostConfig.Runtime .HostConfig.Isolation .HostConfig.Memory .HostConfig.CgroupParent .HostConfig.CpusetCpus .HostConfig.Devices
			.HostConfig.DeviceRequests .HostConfig.PidsLimit .HostConfig.Ulimits .HostConfig.MaskedPaths .HostConfig.ReadonlyPaths
			.Config.Hostname .Config.Domainname .Config.User .Config.AttachStdin .Config.AttachStdout .Config.AttachStderr .Config.StdinOnce .Config.ExposedPorts .Config.Tty .Config.OpenStdin .Config.Env
			.Config.Cmd .Config.Image .Config.Volumes .Config.WorkingDir .Config.Entrypoint .Config.OnBuild .Config.Labels .Config.StopSignal
			.NetworkSettings.Bridge .NetworkSettings.SandboxID .NetworkSettings.SandboxKey .NetworkSettings.Ports .NetworkSettings.HairpinMode .NetworkSettings.LinkLocalIPv6Address .NetworkSettings.Networks
			.NetworkSettings.Gateway .NetworkSettings.IPAddress .NetworkSettings.IPPrefixLen .NetworkSettings.MacAddress .NetworkSettings.EndpointID`},
		{"image inspect", inspectImage{}, `.DockerVersion`},
		{"volume inspect", volumeView{}, `.Status .UsageData`},
	} {
		fields := strings.Fields(c.fields)
		if strings.Contains(c.fields, `"`) {
			fields = []string{c.fields}
		}
		for _, f := range fields {
			tmpl, err := parseTemplate("{{" + f + "}}")
			if err != nil {
				t.Fatal(err)
			}
			err = tmpl.Execute(io.Discard, c.data)
			why, known := lacks[c.verb+" "+f]
			delete(lacks, c.verb+" "+f)
			if err != nil && !known {
				t.Errorf("%s --format {{%s}}: %v", c.verb, f, err)
			} else if err == nil && known {
				t.Errorf("%s --format {{%s}} is said to be lacking: %s", c.verb, f, why)
			}
		}
	}
	for what := range lacks {
		t.Errorf("%s is said to be lacking, and not asked for", what)
	}
}
