package network

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// sysctls is the folder of the network settings. Which namespace's they are depends on the thread that opens a file in it.
const sysctls = "/proc/sys/net/"

// setSysctl writes a value where it is not there already.
func setSysctl(name, value string) error {
	data, err := os.ReadFile(sysctls + name)
	if err == nil && strings.TrimSpace(string(data)) == value {
		return nil
	}
	return writeSysctl(name, value)
}

// writeSysctl writes a value without looking first. A missing file is no error: the kernel lacks what it would control.
func writeSysctl(name, value string) error {
	fd, err := unix.Open(sysctls+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil {
		_, err = unix.Write(fd, []byte(value))
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("sysctl net.%s = %s: %w; set it by hand", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

func sysctlIs(name, value string) bool {
	data, err := os.ReadFile(sysctls + name)
	return err == nil && strings.TrimSpace(string(data)) == value
}

// tuneBridge sets what must hold before the bridge is in service: no container may turn the host's routes by a router advertisement
// or a redirect (CVE-2020-10749), and clients on 127.0.0.1 reach published ports. What route_localnet lets in besides, the table drops.
func tuneBridge(name string) error {
	for _, s := range [...][2]string{
		{"ipv6/conf/" + name + "/accept_ra", "0"},
		{"ipv6/conf/" + name + "/accept_redirects", "0"},
		{"ipv4/conf/" + name + "/accept_redirects", "0"},
		{"ipv4/conf/" + name + "/send_redirects", "0"},
		{"ipv4/conf/" + name + "/route_localnet", "1"},
	} {
		if err := setSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// forward makes the host a router. In IPv6 a router ignores router advertisements unless told otherwise: interfaces that
// listened to them go on to, or the host would lose its own default route.
func forward(v6 bool) error {
	if err := setSysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if !v6 || sysctlIs("ipv6/conf/all/forwarding", "1") {
		return nil
	}
	links, err := os.ReadDir(sysctls + "ipv6/conf")
	if err != nil {
		return err
	}
	for _, l := range links {
		name := l.Name()
		if name == "all" || name == "default" || name == "lo" {
			continue
		}
		if sysctlIs("ipv6/conf/"+name+"/accept_ra", "1") && sysctlIs("ipv6/conf/"+name+"/forwarding", "0") {
			if err := setSysctl("ipv6/conf/"+name+"/accept_ra", "2"); err != nil {
				return err
			}
		}
	}
	return setSysctl("ipv6/conf/all/forwarding", "1")
}
