package delegated

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"brig/api"
)

// TestFind stands on trees as systemd lays them out for user 1000.
func TestFind(t *testing.T) {
	const (
		manager = "/user.slice/user-1000.slice/user@1000.service"
		state   = "/run/user/1000/brig"
	)
	scope := manager + "/user.slice/" + scopeName(state)
	for name, c := range map[string]struct {
		own              string
		writable, marked []string // groups, with all below them
		unreachable      bool
		base             string
		scope            bool
		err              string
	}{
		"a login session":                   {own: "/user.slice/user-1000.slice/session-3.scope", writable: []string{manager}, marked: []string{manager}, base: scope, scope: true},
		"a terminal of the user's systemd":  {own: manager + "/app.slice/term.scope", writable: []string{manager}, marked: []string{manager}, base: scope, scope: true},
		"the user's systemd itself":         {own: manager + "/init.scope", writable: []string{manager}, marked: []string{manager}, base: scope, scope: true},
		"a delegated unit of the user's":    {own: manager + "/app.slice/ci.service", writable: []string{manager}, marked: []string{manager + "/app.slice/ci.service"}, base: manager + "/app.slice/ci.service"},
		"a keeper":                          {own: scope + "/brig-keepers", writable: []string{manager}, base: scope},
		"a keeper of another state folder":  {own: manager + "/user.slice/brig-x.scope/brig-keepers", writable: []string{manager}, base: scope, scope: true},
		"a delegated unit of the machine's": {own: "/system.slice/ci.service", writable: []string{"/system.slice/ci.service"}, base: "/system.slice/ci.service"},
		"a group in one":                    {own: "/system.slice/ci.service/run", writable: []string{"/system.slice/ci.service"}, base: "/system.slice/ci.service"},
		"a container's own tree":            {own: "/", writable: []string{"/"}, base: "/"},
		"no session":                        {own: "/system.slice/cron.service", err: "libpam-systemd"},
		"a user of a like number":           {own: "/user.slice/user-100.slice/session-1.scope", writable: []string{"/user.slice/user-100.slice"}, base: "/user.slice/user-100.slice"},
		"no way to the bus":                 {own: "/user.slice/user-1000.slice/session-3.scope", writable: []string{manager}, unreachable: true, err: "XDG_RUNTIME_DIR=/run/user/1000"},
	} {
		in := func(list []string) func(string) bool {
			return func(group string) bool {
				return slices.ContainsFunc(list, func(top string) bool {
					return group == top || strings.HasPrefix(group, strings.TrimSuffix(top, "/")+"/")
				})
			}
		}
		exactly := func(group string) bool { return slices.Contains(c.marked, group) }
		v := view{own: c.own, writable: in(c.writable), marked: exactly, reachable: !c.unreachable}
		got, from, err := v.find(1000, state)
		switch {
		case c.err != "":
			if !errors.Is(err, api.Unsupported) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		case err != nil || got.Base != c.base || got.Scope != c.scope:
			t.Errorf("%s: %+v, %v", name, got, err)
		case c.scope && from != manager, !c.scope && from != c.base:
			t.Errorf("%s: controllers of %s", name, from)
		}
	}
}

func TestArg(t *testing.T) {
	for _, s := range []*Subtree{{Base: "/a/b.scope", Scope: true}, {Base: "/"}, {Base: "/system.slice/x.service"}} {
		if got, ok := Parse(s.Arg()); !ok || got.Base != s.Base || got.Scope != s.Scope {
			t.Errorf("%+v: %q, %+v", s, s.Arg(), got)
		}
	}
	if got, ok := Parse("--resume"); ok {
		t.Errorf("%+v", got)
	}
	if (*Subtree)(nil).Arg() != "" {
		t.Error("none is not the empty word")
	}
	if scopeName("/a") == scopeName("/b") || !strings.HasPrefix(scopeName("/a"), "brig-") {
		t.Errorf("scopes %s, %s", scopeName("/a"), scopeName("/b"))
	}
}
