package api

import "time"

// PodSpec is what a user asks of a pod: containers that share namespaces, and start and stop together.
type PodSpec struct {
	Name   string            `json:"name,omitempty"` // empty: one is made up
	Labels map[string]string `json:"labels,omitempty"`
	// Share are the namespaces that its containers have in common: of ipc, net, uts and pid.
	Share []string `json:"share,omitempty"`
	// NoInfra: there is no container that holds the namespaces, so that nothing can be shared.
	NoInfra       bool              `json:"noInfra,omitempty"`
	InfraName     string            `json:"infraName,omitempty"`
	NoShareParent bool              `json:"noShareParent,omitempty"` // its containers' control groups have no parent in common
	CgroupParent  string            `json:"cgroupParent,omitempty"`  // of that parent
	Hostname      string            `json:"hostname,omitempty"`      // empty: the pod's name
	Network       NetworkSpec       `json:"network,omitzero"`
	PID           string            `json:"pid,omitempty"` // of the infra container: as NamespaceSet.PID
	UTS           string            `json:"uts,omitempty"`
	Mounts        []MountSpec       `json:"mounts,omitempty"`  // of every container; none is an anonymous volume
	ShmSize       int64             `json:"shmSize,omitempty"` // bytes
	Sysctls       map[string]string `json:"sysctls,omitempty"`
	// Isolation is the level of the pod and of all its containers; Limits, at a level where the pod is a virtual machine or a Sentry, the size of that.
	Isolation Isolation `json:"isolation,omitempty"`
	Limits    Resources `json:"limits,omitzero"`
}

// Pod is a pod's record with its present state.
type Pod struct {
	ID      string    `json:"id"` // 64 hexadecimal digits
	Created time.Time `json:"created"`
	Spec    PodSpec   `json:"spec"`            // its name is filled in
	Infra   string    `json:"infra,omitempty"` // ID of the container that holds the namespaces

	Status     PodStatus   `json:"-"`
	Containers []Container `json:"-"` // the infra container among them, the oldest first
}

// PodStatus is what a pod's containers are doing, in podman's words.
type PodStatus string

// The states of a pod.
const (
	PodCreated  PodStatus = "Created"  // no container of it has run
	PodRunning  PodStatus = "Running"  // none has ended, and one runs
	PodDegraded PodStatus = "Degraded" // some run, others have ended
	PodPaused   PodStatus = "Paused"
	PodExited   PodStatus = "Exited"  // all have ended
	PodStopped  PodStatus = "Stopped" // some have ended, the others have never run
	PodErrored  PodStatus = "Error"   // one is dead
)

// PodAction is what can be done to all containers of a pod.
type PodAction string

// The actions.
const (
	PodStart   PodAction = "start"
	PodStop    PodAction = "stop"
	PodRestart PodAction = "restart"
	PodKill    PodAction = "kill"
	PodPause   PodAction = "pause"
	PodUnpause PodAction = "unpause"
)

// The namespaces that a pod may share.
const (
	ShareNet = "net"
	ShareIPC = "ipc"
	ShareUTS = "uts"
	SharePID = "pid"
)
