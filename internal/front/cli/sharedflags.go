package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"brig/api"
)

// namespaceFlags say which namespaces a container shares with others.
func namespaceFlags(s *api.NamespaceSet, f *pflag.FlagSet) {
	for _, n := range []struct {
		flag, about string
		to          *string
		also        []string
	}{
		{"ipc", "IPC mode to use: private, shareable, none, host or container:NAME", &s.IPC, []string{api.NamespaceShareable, api.NamespaceNone}},
		{"pid", "PID namespace to use: private, host or container:NAME", &s.PID, nil},
		{"uts", "UTS namespace to use: private, host or container:NAME", &s.UTS, nil},
		{"cgroupns", "Cgroup namespace to use: private, host or container:NAME", &s.CgroupNS, nil},
	} {
		parsed(f, n.flag, "", "string", n.about, assign(n.to, func(v string) (string, error) {
			name, joins := strings.CutPrefix(v, api.NamespaceContainer)
			path, given := strings.CutPrefix(v, api.NamespacePath)
			if v == "" || v == api.NamespaceHost || v == api.NamespacePrivate || slices.Contains(n.also, v) || joins && name != "" || given && filepath.IsAbs(path) {
				return v, nil
			}
			return "", fmt.Errorf("%s: invalid mode %q", n.flag, v)
		}))
	}
}

// checkShared refuses what makes no sense with another's namespace, in docker's words.
func checkShared(s *api.ContainerSpec) error {
	uts := s.Namespaces.UTS != "" && s.Namespaces.UTS != api.NamespacePrivate
	if uts && (s.Hostname != "" || s.Domainname != "") {
		return errors.New("conflicting options: hostname and the UTS mode")
	}
	if s.Namespaces.UTS == api.NamespaceHost && s.Network.Mode == api.NamespaceHost {
		return nil
	}
	if !strings.HasPrefix(s.Network.Mode, api.NamespaceContainer) {
		return nil
	}
	n := &s.Network
	for _, c := range []struct {
		set  bool
		what string
	}{
		{s.Hostname != "", "hostname"}, {len(n.DNS)+len(n.Search)+len(n.DNSOptions) > 0, "dns"}, {len(n.AddHosts) > 0, "custom host-to-IP mapping"},
		{len(n.Ports) > 0 || n.PublishAll, "port publishing"}, {len(n.Expose) > 0, "port exposing"}, {n.NoHosts, "no-hosts"},
	} {
		if c.set {
			return fmt.Errorf("conflicting options: %s and the container type network mode", c.what)
		}
	}
	return nil
}

// nameFlags are about what the container knows of names on the network, and which ports it tells of.
func nameFlags(s *api.ContainerSpec, f *pflag.FlagSet) {
	n := &s.Network
	f.StringVar(&s.Domainname, "domainname", "", "Container NIS domain name")
	list(f, "dns-search", "", "Set custom DNS search domains (. for none)", appendTo(&n.Search, oneWord))
	list(f, "dns-option", "", "Set DNS options", appendTo(&n.DNSOptions, oneWord))
	list(f, "dns-opt", "", "Set DNS options", appendTo(&n.DNSOptions, oneWord))
	_ = f.MarkHidden("dns-opt")
	f.BoolVar(&n.NoHosts, "no-hosts", false, "Leave the image's /etc/hosts as it is")
	list(f, "expose", "", "Expose a port or a range of ports", func(v string) error {
		ports, err := parsePorts(v)
		for _, p := range ports {
			n.Expose = append(n.Expose, fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol))
		}
		if err == nil && strings.Contains(v, ":") {
			err = fmt.Errorf("invalid port format for --expose: %s", v)
		}
		return err
	})
	f.BoolVarP(&n.PublishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
}

// oneWord refuses what would be more than one word of a line.
func oneWord(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, " \t\n") {
		return "", fmt.Errorf("%q is not one word", s)
	}
	return s, nil
}

// envFlags are about where variables come from, beside -e.
type envFlags struct {
	host, proxy bool
	unset       []string
}

func (e *envFlags) declare(s *api.ContainerSpec, f *pflag.FlagSet) {
	f.BoolVar(&e.host, "env-host", false, "Use all of this process's environment variables")
	list(f, "env-merge", "", "Set environment variables, with ${NAME} of the image's", appendTo(&s.MergeEnv, func(v string) (string, error) {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return "", fmt.Errorf("invalid variable %q: use NAME=VALUE", v)
		}
		return v, nil
	}))
	f.BoolVar(&e.proxy, "http-proxy", false, "Use this process's proxy variables: http_proxy and its kin")
	list(f, "unsetenv", "", "Unset environment variables of the image", appendTo(&e.unset, oneWord))
	f.BoolVar(&s.UnsetEnvAll, "unsetenv-all", false, "Unset all environment variables of the image, and those that Brig sets")
}

// apply enters what the flags say; s.Env has what -e says.
func (e *envFlags) apply(s *api.ContainerSpec) error {
	if e.host {
		s.BaseEnv = os.Environ()
	}
	if e.proxy {
		for _, name := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY"} {
			if v, ok := os.LookupEnv(name); ok {
				s.BaseEnv = append(s.BaseEnv, name+"="+v)
			}
		}
	}
	var unset []string
	for _, name := range e.unset {
		if strings.Contains(name, "=") {
			return fmt.Errorf("unsetenv: %q is not a name", name)
		}
		unset = append(unset, name)
	}
	s.Env = append(unset, s.Env...)
	return nil
}

// platformFlags are podman's three for one.
type platformFlags struct{ os, arch, variant string }

func (p *platformFlags) declare(f *pflag.FlagSet) {
	f.StringVar(&p.os, "os", "", "Operating system of the image, in place of linux")
	f.StringVar(&p.arch, "arch", "", "Architecture of the image")
	f.StringVar(&p.variant, "variant", "", "Variant of the architecture")
}

// apply makes a platform of them.
func (p *platformFlags) apply(to *string) (err error) {
	switch {
	case *p == platformFlags{}:
		return nil
	case *to != "":
		return errors.New("conflicting options: --platform, and --os, --arch or --variant")
	case p.arch == "":
		return errors.New("--os and --variant go together with --arch")
	}
	platform := first(p.os, "linux") + "/" + p.arch
	if p.variant != "" {
		platform += "/" + p.variant
	}
	*to, err = parsePlatform(platform)
	return err
}

// podmanFlags are podman's, and docker's rarer ones.
type podmanFlags struct {
	env           envFlags
	platform      platformFlags
	tmpfsReadOnly bool
	replace       bool
	tlsVerify     bool
}

func (p *podmanFlags) declare(s *api.ContainerSpec, f *pflag.FlagSet) {
	p.env.declare(s, f)
	p.platform.declare(f)
	list(f, "group-add", "", "Add additional groups to join; keep-groups: those of the caller", appendTo(&s.Groups, oneWord))
	parsed(f, "umask", "", "string", "Set umask in container (default 0022)", assign(&s.Umask, plain))
	parsed(f, "tz", "", "string", "Set timezone in container: local, or a name as Europe/Berlin", assign(&s.Timezone, plain))
	parsed(f, "pidfile", "", "string", "Write the number of the container's first process to the file", assign(&s.PidFile, filepath.Abs))
	parsed(f, "init-path", "", "string", "Program of the host that --init runs in place of Brig's", assign(&s.InitPath, filepath.Abs))
	list(f, "volumes-from", "", "Mount volumes from the specified container(s)", appendTo(&s.VolumesFrom, plain))
	parsed(f, "image-volume", "", "string", "What the image's volumes become: anonymous, tmpfs or ignore (default anonymous)", assign(&s.ImageVolume, func(v string) (string, error) {
		switch v {
		case "anonymous", "bind":
			return "", nil
		case api.ImageVolumeTmpfs, api.ImageVolumeIgnore:
			return v, nil
		}
		return "", fmt.Errorf("invalid image-volume type %q: use anonymous, tmpfs or ignore", v)
	}))
	f.BoolVar(&p.tmpfsReadOnly, "read-only-tmpfs", false, "With --read-only, mount a tmpfs on /run, /tmp and /var/tmp")
	f.BoolVar(&p.replace, "replace", false, "Remove a container of the same name first")
	parsed(f, "timeout", "", "uint", "Seconds after which the container is killed (default: never)", assign(&s.Timeout, func(v string) (int, error) {
		n, err := strconv.ParseUint(v, 10, 31)
		return int(n), err
	}))
	list(f, "requires", "", "Containers that are started before this one", func(v string) error {
		s.Requires = append(s.Requires, strings.Split(v, ",")...)
		return nil
	})
	parsed(f, "cgroup-parent", "", "string", "Parent of the container's control groups", assign(&s.CgroupParent, plain))
	parsed(f, "cgroup-conf", "", "map", "Set a file of the control group (version 2)", pairs("cgroup-conf", &s.CgroupConf))
	parsed(f, "cgroups", "", "string", "Control groups of the container: enabled", func(v string) error {
		switch v {
		case "enabled", "no-conmon": // the keeper is never in the container's
			return nil
		case "disabled", "split":
			return api.Errorf(api.Unsupported, "--cgroups=%s is not supported: a container has control groups of its own: use --cgroup-parent for another place", v)
		}
		return fmt.Errorf("invalid cgroups mode %q", v)
	})
	parsed(f, "systemd", "", "string", "Set the container up for systemd: always, false, or true where its command looks like it (default true)", assign(&s.Systemd, func(v string) (api.SystemdMode, error) {
		switch v {
		case "true":
			return "", nil
		case "false", "always":
			return api.SystemdMode(v), nil
		}
		return "", fmt.Errorf("invalid systemd value %q: use always, true or false", v)
	}))
	list(f, "device-cgroup-rule", "", "Add a rule to the cgroup allowed devices list", appendTo(&s.DeviceRules, plain))
	parsed(f, "authfile", "", "string", "File of the credentials for the pull", assign(&s.AuthFile, plain))
	f.BoolVar(&p.tlsVerify, "tls-verify", true, "Require HTTPS and a valid certificate of the registry, for the pull")
}

// apply enters what waits for other flags.
func (p *podmanFlags) apply(s *api.ContainerSpec) error {
	s.Insecure = !p.tlsVerify
	if p.tmpfsReadOnly && s.ReadOnly {
		for _, at := range []string{"/run", "/tmp", "/var/tmp"} {
			if !slices.ContainsFunc(s.Mounts, func(m api.MountSpec) bool { return m.Target == at }) {
				s.Mounts = append(s.Mounts, api.MountSpec{Type: "tmpfs", Target: at})
			}
		}
	}
	if p.replace && s.Name == "" {
		return errors.New("cannot replace a container without --name being set")
	}
	if err := p.platform.apply(&s.Platform); err != nil {
		return err
	}
	if err := p.env.apply(s); err != nil {
		return err
	}
	return checkShared(s)
}

// replaced removes the container that has the name, where --replace says so.
func (o *specFlags) replaced(ctx context.Context) error {
	if !o.podman.replace {
		return nil
	}
	err := o.app.engine().Remove(ctx, o.spec.Name, true, true)
	if errors.Is(err, api.NotFound) {
		return nil
	}
	return err
}
