package engine

import (
	"os"
	"slices"
	"strings"
	"testing"

	"brig/api"
	"brig/internal/base/record"
)

// TestPodStatus: what the states of containers make of their pod.
func TestPodStatus(t *testing.T) {
	for states, want := range map[string]api.PodStatus{
		"":                       api.PodCreated,
		"created":                api.PodCreated,
		"created created":        api.PodCreated,
		"running":                api.PodRunning,
		"running running":        api.PodRunning,
		"running created":        api.PodRunning,
		"running restarting":     api.PodRunning,
		"running exited":         api.PodDegraded,
		"paused exited":          api.PodDegraded,
		"running paused":         api.PodRunning,
		"paused paused":          api.PodPaused,
		"exited":                 api.PodExited,
		"exited exited":          api.PodExited,
		"exited created":         api.PodStopped,
		"running exited dead":    api.PodErrored,
		"running exited created": api.PodDegraded,
	} {
		p := api.Pod{ID: "p"}
		all := []api.Container{{ID: "stranger", State: api.State{Status: api.StatusExited}}}
		for _, s := range strings.Fields(states) {
			all = append(all, api.Container{Spec: api.ContainerSpec{Pod: "p"}, State: api.State{Status: api.Status(s)}})
		}
		if fillPod(&p, all); p.Status != want || len(p.Containers) != len(all)-1 {
			t.Errorf("%s: %s with %d containers, want %s", states, p.Status, len(p.Containers), want)
		}
	}
}

// TestDamagedPod: one record that cannot be read is named and is in nobody's way.
func TestDamagedPod(t *testing.T) {
	e := New(t.TempDir(), t.TempDir(), "test")
	ctx := t.Context()
	whole, err := e.CreatePod(ctx, api.PodSpec{Name: "whole", NoInfra: true})
	if err != nil {
		t.Fatal(err)
	}
	broken, err := e.CreatePod(ctx, api.PodSpec{Name: "broken", NoInfra: true})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(e.podPath(broken.ID))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.podPath(broken.ID), []byte(strings.Replace(string(data), "broken", "brokem", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	pods, err := e.Pods(ctx)
	if len(pods) != 1 || pods[0].ID != whole.ID || api.KindOf(err) != api.Corrupt || !strings.Contains(err.Error(), broken.ID) {
		t.Errorf("%d pods, %v", len(pods), err)
	}
	if _, err := e.InspectPod(ctx, "whole"); err != nil {
		t.Error(err)
	}
	var report api.CheckReport
	if err := e.checkPods(&report, true); err != nil || len(report.Problems) != 1 || report.Problems[0].Repaired == "" {
		t.Errorf("check: %+v %v", report.Problems, err)
	}
	if pods, err := e.Pods(ctx); len(pods) != 1 || err != nil {
		t.Errorf("after it: %d pods, %v", len(pods), err)
	}
	if _, err := e.CreatePod(ctx, api.PodSpec{Name: "whole", NoInfra: true}); api.KindOf(err) != api.Conflict {
		t.Errorf("a second pod of the name: %v", err)
	}
	if _, err := e.InspectPod(ctx, whole.ID[:6]); err != nil {
		t.Errorf("by a prefix: %v", err)
	}
}

// TestPublishAll publishes once what image and flags expose, unless -p does.
func TestPublishAll(t *testing.T) {
	n := api.NetworkSpec{Expose: []string{"80/tcp", "53/udp"}, Ports: []api.PortSpec{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}}
	publishAll(&n, map[string]struct{}{"443": {}, "53/udp": {}, "0/tcp": {}, "9/sctp": {}, "x": {}})
	want := []api.PortSpec{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 443, Protocol: "tcp"}, {ContainerPort: 53, Protocol: "udp"}}
	if !slices.Equal(n.Ports, want) {
		t.Errorf("%+v, want %+v", n.Ports, want)
	}
}

func TestExpandEnv(t *testing.T) {
	got := expandEnv([]string{"A=${B}-$C-$$", "D=plain"}, []string{"B=b=2", "C=c"})
	if want := []string{"A=b=2-c-", "D=plain"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestDeviceRule holds the forms that docker takes, and refuses the others.
func TestDeviceRule(t *testing.T) {
	for rule, ok := range map[string]bool{
		"c 1:3 rwm": true, "b 8:* r": true, "a *:* rwm": true, "c 1:3": false, "d 1:3 r": false, "c 1-3 r": false, "c x:3 r": false, "c 1:3 rx": false, "c -1:3 r": false, "": false,
	} {
		if _, err := deviceRule(rule); (err == nil) != ok {
			t.Errorf("%q: %v", rule, err)
		}
	}
	r, err := deviceRule("b 8:* r")
	if err != nil || !r.Allow || r.Type != "b" || r.Major == nil || *r.Major != 8 || r.Minor != nil || r.Access != "r" {
		t.Errorf("%+v %v", r, err)
	}
}

// TestUserOfImageHasNoGroups: what stands behind a comma is --group-add's, and no image's, whose USER could have the caller's groups kept.
func TestUserOfImageHasNoGroups(t *testing.T) {
	e := New(t.TempDir(), t.TempDir(), "test")
	for _, user := range []string{"0,keep-groups", "1000:100,44"} {
		c := api.Container{}
		c.ImageConfig.User = user
		if err := e.resolve(&c); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("an image's user %s: %v", user, err)
		}
		c.ImageConfig.User, c.Spec.User = "", user
		if err := e.resolve(&c); api.KindOf(err) != api.InvalidArgument {
			t.Errorf("--user %s: %v", user, err)
		}
		if _, err := e.execProcess(&api.Container{}, &api.ExecSpec{Command: []string{"id"}, User: user}); err == nil {
			t.Errorf("exec --user %s: no error", user)
		}
	}
}

// TestPodLevel: a pod's level is that of its containers, whatever the environment says, and what it cannot do is refused when it is made.
func TestPodLevel(t *testing.T) {
	e := New(t.TempDir(), t.TempDir(), "test")
	for _, s := range []api.PodSpec{
		{Isolation: api.IsolationChroot}, {Isolation: api.IsolationVM, NoInfra: true}, {Isolation: api.IsolationVM, Share: []string{api.ShareIPC}}, {Limits: api.Resources{Memory: 1 << 30}},
	} {
		if err := checkPodLevel(&s); err == nil {
			t.Errorf("%+v passes", s)
		}
	}
	p := api.Pod{ID: strings.Repeat("a", 64), Infra: strings.Repeat("b", 64), Spec: api.PodSpec{Name: "shop", Isolation: api.IsolationVM, Share: []string{api.ShareNet, api.ShareIPC}}}
	data, err := record.Marshal(p)
	if err == nil {
		err = os.MkdirAll(e.podDir(), 0o700)
	}
	if err == nil {
		err = os.WriteFile(e.podPath(p.ID), record.Sign(data), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		asked api.Isolation
		usual bool
		ok    bool
	}{{"", false, true}, {api.IsolationVM, false, true}, {api.IsolationContainer, false, false}, {api.IsolationContainer, true, true}} {
		s := api.ContainerSpec{Pod: "shop", Isolation: tc.asked, IsolationUsual: tc.usual}
		if err := e.levelOfPod(&s); (err == nil) != tc.ok || tc.ok && s.Isolation != api.IsolationVM {
			t.Errorf("%+v: level %s, %v", tc, s.Isolation, err)
		}
	}
	s := api.ContainerSpec{Pod: "shop", Isolation: api.IsolationVM, Namespaces: api.NamespaceSet{PID: api.NamespaceContainer + "other"}}
	if err := e.intoPod(&s); err != nil {
		t.Fatal(err)
	}
	own := e.outOfPod(&s)
	if infraOf(&s) != p.Infra || own.Network.Mode != "" || own.Namespaces.IPC != "" || own.Namespaces.PID == "" || s.Network.Mode == "" {
		t.Errorf("infra %q, of its own %+v %+v", infraOf(&s), own.Network, own.Namespaces)
	}
}
