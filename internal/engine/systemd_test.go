package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"brig/api"
	"brig/internal/base/rootless"
)

func TestIsSystemd(t *testing.T) {
	for command, want := range map[string]bool{
		"/sbin/init": true, "/usr/sbin/init --system": true, "/usr/local/sbin/init": true, "/lib/systemd/systemd": true, "systemd": true, "/bin/sh -c /sbin/init": true,
		"/bin/sh -c": false, "sh": false, "init": false, "/sbin/init2": false, "/usr/bin/systemd-run": false, "/bin/bash -c /sbin/init": false,
	} {
		if got := isSystemd(strings.Fields(command)); got != want {
			t.Errorf("%s: %t", command, got)
		}
	}
}

func TestNestingRights(t *testing.T) {
	s := &api.ContainerSpec{Security: []string{"nesting"}, UserNS: api.UserNS{Mode: api.UserNSAuto}, CapDrop: []string{"CAP_NET_RAW"}}
	names, err := rights(s, false)
	if err != nil || !slices.Contains(names, "CAP_SYS_ADMIN") || slices.Contains(names, "CAP_NET_RAW") {
		t.Errorf("%v, %v", names, err)
	}
	s.Security = append(s.Security, "nesting=false")
	if names, err = rights(s, false); err != nil || slices.Contains(names, "CAP_SYS_ADMIN") {
		t.Errorf("taken back: %v, %v", names, err)
	}
}

func TestCheckNesting(t *testing.T) {
	t.Setenv(rootless.Env, "")
	userNS := api.UserNS{Mode: api.UserNSAuto}
	for _, c := range []struct {
		spec api.ContainerSpec
		want string
	}{
		{api.ContainerSpec{Security: []string{"nesting"}, UserNS: userNS}, ""},
		{api.ContainerSpec{Security: []string{"nesting=false"}}, ""},
		{api.ContainerSpec{Security: []string{"nesting"}}, "--userns auto"},
		{api.ContainerSpec{Security: []string{"nesting"}, UserNS: api.UserNS{Mode: api.UserNSPrivate, UIDMap: []api.IDRange{{Inside: 0, Outside: 1000, Size: 10}, {Inside: 10, Outside: 0, Size: 1}}}},
			"0 of the host"},
		{api.ContainerSpec{Security: []string{"nesting"}, UserNS: api.UserNS{Mode: api.UserNSPrivate, GIDMap: []api.IDRange{{Inside: 0, Outside: 0, Size: 10}}}}, "0 of the host"},
		{api.ContainerSpec{Security: []string{"nesting"}, UserNS: userNS, Privileged: true}, "--privileged"},
		{api.ContainerSpec{Security: []string{"nesting=perhaps"}}, "true or false"},
	} {
		err := checkNesting(&c.spec)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.spec.Security, err, c.want)
		}
	}
	t.Setenv(rootless.Env, "1000:7") // a normal user's containers are in his own
	if err := checkNesting(&api.ContainerSpec{Security: []string{"nesting"}}); err != nil {
		t.Error(err)
	}
}
