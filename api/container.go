package api

import (
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Isolation is the boundary that a sandbox stands behind.
type Isolation string

// The levels of isolation, weakest first. The empty value means IsolationContainer.
const (
	IsolationChroot    Isolation = "chroot"
	IsolationContainer Isolation = "container"
	IsolationGVisor    Isolation = "gvisor"
	IsolationVM        Isolation = "vm"
)

// LazyErrorFile is the file in a running container's sandbox that says why files of its image could not be read.
const LazyErrorFile = "lazy-error"

// PullPolicy says when the registry is asked for an image.
type PullPolicy string

// The pull policies, as of docker run --pull. The empty value means PullMissing.
const (
	PullMissing PullPolicy = "missing"
	PullAlways  PullPolicy = "always"
	PullNever   PullPolicy = "never"
	// PullLazy is PullMissing, but what of the image can be read from the registry as it is needed is not waited for.
	PullLazy PullPolicy = "lazy"
)

// Rootfs is a folder of the host that is a container's root file system. The zero value is none.
type Rootfs struct {
	Dir     string `json:"dir"`               // absolute
	Overlay bool   `json:"overlay,omitempty"` // what is written goes into a layer of the container's own; else into the folder
}

// ContainerSpec is what a user asks for: the flags of run and create, before the image's own settings are merged in.
// Every door translates its protocol to it. The zero value of each field means docker's default, or the image's.
// A new field is added here, in the door that sets it, and in engine/spec.go, which turns it into the bundle's config.json.
type ContainerSpec struct {
	Name           string     `json:"name,omitempty"` // empty: one is made up
	Image          string     `json:"image"`          // as the user typed it: reference, digest or image ID
	Platform       string     `json:"platform,omitempty"`
	Rootfs         Rootfs     `json:"rootfs,omitzero"` // in the place of an image
	Pull           PullPolicy `json:"pull,omitempty"`
	Isolation      Isolation  `json:"isolation,omitempty"`
	IsolationUsual bool       `json:"-"` // it is what the environment says: the level of a pod goes before it

	Entrypoint *[]string `json:"entrypoint,omitempty"` // nil: the image's; empty: none
	Command    []string  `json:"command,omitempty"`
	Env        []string  `json:"env,omitempty"` // NAME=VALUE; a bare NAME unsets the image's
	WorkingDir string    `json:"workingDir,omitempty"`
	User       string    `json:"user,omitempty"` // name|uid[:group|gid]

	Interactive bool `json:"interactive,omitempty"` // -i: standard input stays open
	TTY         bool `json:"tty,omitempty"`
	AutoRemove  bool `json:"autoRemove,omitempty"`
	Init        bool `json:"init,omitempty"`
	Privileged  bool `json:"privileged,omitempty"`
	ReadOnly    bool `json:"readOnly,omitempty"`

	BaseEnv     []string `json:"baseEnv,omitempty"`     // NAME=VALUE, which the image's and Env win over
	MergeEnv    []string `json:"mergeEnv,omitempty"`    // NAME=VALUE with ${NAME} of the image's
	UnsetEnvAll bool     `json:"unsetEnvAll,omitempty"` // nothing of the image's, and nothing that Brig sets
	Groups      []string `json:"groups,omitempty"`      // names or numbers of more groups; KeepGroups alone: the caller's
	Umask       string   `json:"umask,omitempty"`       // octal; empty: 0022
	Timezone    string   `json:"timezone,omitempty"`    // local, or a name of the host's zoneinfo
	PidFile     string   `json:"pidFile,omitempty"`     // absolute: the first process's number on the host goes there
	InitPath    string   `json:"initPath,omitempty"`    // absolute, on the host: the program that Init means; empty: Brig's
	Files       []int    `json:"-"`                     // descriptors that the process gets as 3 and on, when it is run and not when it is started again; they stay the caller's

	// Caller is the host's user who asked, where that is not who runs Brig (sudo): a folder of his that is bound has its files be the container's user's. 0: nobody.
	Caller uint32 `json:"caller,omitempty"`

	UserNS     UserNS       `json:"userNS,omitzero"`
	Hostname   string       `json:"hostname,omitempty"`
	Domainname string       `json:"domainname,omitempty"` // of NIS
	Network    NetworkSpec  `json:"network,omitzero"`
	Namespaces NamespaceSet `json:"namespaces,omitzero"`

	Mounts       []MountSpec       `json:"mounts,omitempty"`
	Secrets      []SecretSpec      `json:"secrets,omitempty"`
	Devices      []DeviceSpec      `json:"devices,omitempty"`
	CDIDirs      []string          `json:"cdiDirs,omitempty"` // where CDI devices are looked for; none: /etc/cdi and /var/run/cdi
	Limits       Resources         `json:"limits,omitzero"`
	CgroupParent string            `json:"cgroupParent,omitempty"` // absolute, in every hierarchy; empty: their roots
	CgroupConf   map[string]string `json:"cgroupConf,omitempty"`   // files of a group of version 2
	Systemd      SystemdMode       `json:"systemd,omitempty"`      // whether it is set up for systemd
	Entrusted    bool              `json:"entrusted,omitempty"`    // it rules control groups below its own; set when it is made
	DeviceRules  []string          `json:"deviceRules,omitempty"`  // --device-cgroup-rule, as typed: c 1:3 rwm
	Ulimits      []Ulimit          `json:"ulimits,omitempty"`
	CapAdd       []string          `json:"capAdd,omitempty"`
	CapDrop      []string          `json:"capDrop,omitempty"`
	Security     []string          `json:"security,omitempty"` // --security-opt, as typed: seccomp=…, no-new-privileges[=true|false]

	Log         LogConfig         `json:"log,omitzero"`
	Health      *HealthSpec       `json:"health,omitempty"` // nil: the image's
	Restart     RestartPolicy     `json:"restart,omitzero"`
	StorageSize int64             `json:"storageSize,omitempty"` // bytes that its writable layer may hold; 0: what the disk has
	ShmSize     int64             `json:"shmSize,omitempty"`     // bytes of /dev/shm; 0: 64 MiB
	OOMScoreAdj int               `json:"oomScoreAdj,omitempty"` // -1000 to 1000
	Sysctls     map[string]string `json:"sysctls,omitempty"`     // of the container's own namespaces
	Annotations map[string]string `json:"annotations,omitempty"` // of the bundle; none of Brig's own, org.brig.

	// Pod is the pod that the container is in: a name, in a record its ID; empty: none. Infra marks the one that holds its namespaces.
	Pod   string `json:"pod,omitempty"`
	Infra bool   `json:"infra,omitempty"`

	VolumesFrom []string `json:"volumesFrom,omitempty"` // containers whose mounts it has had since it was created: ID[:ro]
	ImageVolume string   `json:"imageVolume,omitempty"` // what the image's volumes become: anonymous ones (empty), ImageVolumeTmpfs or ImageVolumeIgnore
	Requires    []string `json:"requires,omitempty"`    // IDs of containers that are started before it
	Timeout     int      `json:"timeout,omitempty"`     // seconds after which it is killed; 0: never

	// Where credentials for the pull are, and whether its registry may be unsafe. They are the command's, not the container's.
	AuthFile string `json:"-"`
	Insecure bool   `json:"-"`

	Labels      map[string]string `json:"labels,omitempty"`
	StopSignal  string            `json:"stopSignal,omitempty"`
	StopTimeout *int              `json:"stopTimeout,omitempty"` // seconds; nil: 10
}

// KeepGroups among a container's groups means those of the caller.
const KeepGroups = "keep-groups"

// What becomes of an image's volumes, beside anonymous ones.
const (
	ImageVolumeTmpfs  = "tmpfs"
	ImageVolumeIgnore = "ignore"
)

// NamespaceSet says which namespaces a container shares. A field is empty or NamespacePrivate for one of its own (CgroupNS empty: docker's
// default), NamespaceHost, or begins with NamespaceContainer or NamespacePath. IPC may also be NamespaceShareable or NamespaceNone. Network
// stands in NetworkSpec.Mode.
type NamespaceSet struct {
	PID      string `json:"pid,omitempty"`
	IPC      string `json:"ipc,omitempty"`
	UTS      string `json:"uts,omitempty"`
	CgroupNS string `json:"cgroup,omitempty"`
}

// The ways to share a namespace.
const (
	NamespaceHost      = "host"
	NamespacePrivate   = "private"
	NamespaceShareable = "shareable"  // an IPC namespace of its own, which others may join
	NamespaceNone      = "none"       // the same, without /dev/shm
	NamespaceContainer = "container:" // and a container's name; in a record its ID
	NamespacePath      = "ns:"        // and the path of a namespace on the host
)

// LogConfig says where a container's output is kept: docker's --log-driver and --log-opt.
type LogConfig struct {
	Driver  string            `json:"driver,omitempty"` // empty: LogJSONFile
	Options map[string]string `json:"options,omitempty"`
}

// The log drivers.
const (
	LogJSONFile = "json-file"
	LogK8sFile  = "k8s-file"
	LogJournald = "journald"
	LogSyslog   = "syslog"
	LogNone     = "none"
)

// HealthSpec changes how the image asks its containers whether they are well: docker's --health-*. What is zero is the image's.
type HealthSpec struct {
	Healthcheck
	// OnFailure says what becomes of an unhealthy container: podman's --health-on-failure. Empty: nothing.
	OnFailure string `json:"onFailure,omitempty"`
}

// What becomes of an unhealthy container.
const (
	UnhealthyKill    = "kill"    // and its restart policy says whether it is started again
	UnhealthyRestart = "restart" // whatever its restart policy is
	UnhealthyStop    = "stop"    // and it stays so
)

// Health is how a container is: docker's State.Health.
type Health struct {
	Status        string        `json:"Status"`
	FailingStreak int           `json:"FailingStreak"`
	Log           []HealthProbe `json:"Log"` // the last five
}

// The states of health, docker's words.
const (
	HealthStarting  = "starting"
	HealthHealthy   = "healthy"
	HealthUnhealthy = "unhealthy"
)

// HealthProbe is one answer.
type HealthProbe struct {
	Start    time.Time `json:"Start"`
	End      time.Time `json:"End"`
	ExitCode int       `json:"ExitCode"` // -1: it could not be asked, or did not answer in time
	Output   string    `json:"Output"`   // the first 4096 bytes of both streams
}

// RestartPolicy says when a container that has ended is started again: docker's --restart.
type RestartPolicy struct {
	Name string `json:"name,omitempty"` // empty: RestartNo
	Max  int    `json:"max,omitempty"`  // RestartOnFailure: how often; 0: no limit
}

// The restart policies.
const (
	RestartNo            = "no"
	RestartAlways        = "always"         // also after a boot, whoever stopped it
	RestartUnlessStopped = "unless-stopped" // unless a user stopped it
	RestartOnFailure     = "on-failure"     // when its exit code is not 0
)

// SystemdMode says whether a container is set up for systemd as its first process: podman's --systemd.
type SystemdMode string

// The modes. Empty: it is where its command looks like systemd's; in a record, it is not.
const (
	SystemdAlways SystemdMode = "always"
	SystemdFalse  SystemdMode = "false"
)

// MountSpec is one -v, --mount or --tmpfs.
type MountSpec struct {
	Type         string   `json:"type"`             // bind, volume, tmpfs or image
	Source       string   `json:"source,omitempty"` // bind: absolute host path; volume: name, empty for an anonymous one; image: reference, digest or ID
	Target       string   `json:"target"`           // absolute path in the container
	ReadOnly     bool     `json:"readOnly,omitempty"`
	Propagation  string   `json:"propagation,omitempty"` // bind: rprivate (default), private, rshared, shared, rslave, slave
	NonRecursive bool     `json:"nonRecursive,omitempty"`
	CreateSource bool     `json:"createSource,omitempty"` // -v makes a missing host folder, --mount refuses
	NoCopy       bool     `json:"noCopy,omitempty"`       // volume: no copy-up of the image's files into an empty volume
	TmpfsSize    int64    `json:"tmpfsSize,omitempty"`    // bytes; 0: the kernel's default
	TmpfsMode    uint32   `json:"tmpfsMode,omitempty"`    // permission bits; 0: 1777
	TmpfsOptions []string `json:"tmpfsOptions,omitempty"` // --tmpfs PATH:opt,opt as typed
	Subpath      string   `json:"subpath,omitempty"`      // volume: a file or folder in it, which must be there
	TopReadOnly  bool     `json:"topReadOnly,omitempty"`  // bind, with ReadOnly: what is mounted below it stays as it is
	Layers       []string `json:"layers,omitempty"`       // image: diff IDs, bottom first, as of creation
	Flags        []string `json:"flags,omitempty"`        // bind, volume: noexec, nosuid, nodev and the like, as typed

	IDMap  IDMap     `json:"idMap,omitempty"`  // bind, volume: whose its files are
	UIDMap []IDRange `json:"uidMap,omitempty"` // IDMapRanges: from ids on the file system to those that are seen; one that is nil maps nothing to another id
	GIDMap []IDRange `json:"gidMap,omitempty"`
}

// IDMap says how the owners of a mount's files are seen. Nothing is changed on the disk.
type IDMap string

// The ways. Empty: a bound folder of ContainerSpec.Caller is as with IDMapOwner, any other as with IDMapNone.
const (
	IDMapNone   IDMap = "none"   // by their numbers
	IDMapUserNS IDMap = "userns" // numbers on the file system are the container's, in its user namespace
	IDMapOwner  IDMap = "owner"  // what belongs to the source's owner is the container's user's; "owner:USER[:GROUP]" is that user's
	IDMapRanges IDMap = "ranges"
)

// IDRange maps Size ids from Inside on to those from Outside on.
type IDRange struct {
	Inside  uint32 `json:"inside"`
	Outside uint32 `json:"outside"`
	Size    uint32 `json:"size"`
}

// UserNS is a container's user namespace: podman's --userns. The zero value is none of its own.
type UserNS struct {
	Mode UserNSMode `json:"mode,omitempty"`
	Size uint32     `json:"size,omitempty"` // UserNSAuto: how many ids; 0: 65536
	// The container's ids to the host's, or without root to those of the user's namespace, where 0 is the user. UserNSAuto: filled in when the container is made, and its own as long as
	// it exists. UserNSPrivate: as asked for. UserNSKeepID: filled in; before that whom the user shall be, where that was said. UserNSNoMap: filled in.
	UIDMap []IDRange `json:"uidMap,omitempty"`
	GIDMap []IDRange `json:"gidMap,omitempty"`
	// UserNSPrivate without a map: the names whose ranges in /etc/subuid and /etc/subgid are the container's ids from 0 on.
	SubUIDName string `json:"subUIDName,omitempty"`
	SubGIDName string `json:"subGIDName,omitempty"`
}

// UserNSMode is a way to have a user namespace.
type UserNSMode string

// The ways. Empty: the host's, or without root the user's.
const (
	UserNSAuto    UserNSMode = "auto"
	UserNSPrivate UserNSMode = "private"
	UserNSKeepID  UserNSMode = "keep-id"
	UserNSNoMap   UserNSMode = "nomap"
)

// DeviceSpec is one --device.
type DeviceSpec struct {
	Source      string `json:"source"` // a path, or without a target a CDI device, vendor.com/class=name
	Target      string `json:"target"`
	Permissions string `json:"permissions"` // of "rwm"
}

// Resources are limits and weights. Zero means docker's default: no limit.
type Resources struct {
	Memory            int64                   `json:"memory,omitempty"`            // bytes
	MemorySwap        int64                   `json:"memorySwap,omitempty"`        // bytes of memory and swap together; -1: no limit, 0: twice the memory
	MemoryReservation int64                   `json:"memoryReservation,omitempty"` // bytes that are left alone when memory is short
	MemorySwappiness  *uint64                 `json:"memorySwappiness,omitempty"`  // 0 to 100; nil: the kernel's
	OOMKillDisable    bool                    `json:"oomKillDisable,omitempty"`
	NanoCPUs          int64                   `json:"nanoCPUs,omitempty"`  // billionths of a CPU; it excludes period and quota
	CPUShares         uint64                  `json:"cpuShares,omitempty"` // weight; the default is 1024
	CPUPeriod         uint64                  `json:"cpuPeriod,omitempty"` // microseconds
	CPUQuota          int64                   `json:"cpuQuota,omitempty"`  // microseconds in each period; -1: no limit
	CPUs              string                  `json:"cpus,omitempty"`      // to run on: 0-3,7
	MemoryNodes       string                  `json:"memoryNodes,omitempty"`
	Pids              int64                   `json:"pids,omitempty"`        // processes and threads; -1: none
	BlkioWeight       uint16                  `json:"blkioWeight,omitempty"` // 10 to 1000
	DeviceWeights     []DeviceRate            `json:"deviceWeights,omitempty"`
	DeviceRates       map[string][]DeviceRate `json:"deviceRates,omitempty"` // by docker's flag: read-bps, write-bps, read-iops, write-iops
}

// DeviceRate is a limit or weight of one block device.
type DeviceRate struct {
	Path string `json:"path"` // absolute
	Rate uint64 `json:"rate"` // bytes or operations a second, or a weight of 10 to 1000
}

// Ulimit is one --ulimit: a resource limit of the container's processes. -1 means unlimited.
type Ulimit struct {
	Name string `json:"name"` // as in docker: nofile, nproc, core
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Status is where a container is in its life.
type Status string

// The states of a container, docker's words but for one.
const (
	StatusCreated     Status = "created"
	StatusInitialized Status = "initialized" // podman's word: all is made but its process is not executed yet
	StatusRunning     Status = "running"
	StatusPaused      Status = "paused"
	StatusRestarting  Status = "restarting" // has ended, and will be started again
	StatusExited      Status = "exited"
	StatusDead        Status = "dead" // half made or half removed by a process that died; rm cleans it
)

// Exit is how a process ended.
type Exit struct {
	Code      int       `json:"code"`             // 128+n after signal n
	Signal    int       `json:"signal,omitempty"` // that ended it; 0: it ended by itself, whatever its code is
	OOMKilled bool      `json:"oomKilled,omitempty"`
	Error     string    `json:"error,omitempty"` // why it could not start, or why the status is unknown
	At        time.Time `json:"at"`
}

// State is what a container is doing now.
type State struct {
	Status    Status    `json:"status"`
	Pid       int       `json:"pid,omitempty"` // of its first process, in the host's PID namespace; 0 unless running
	StartedAt time.Time `json:"startedAt,omitzero"`
	Exit      *Exit     `json:"exit,omitempty"`     // of its last run
	Error     string    `json:"error,omitempty"`    // why files of its image cannot be read, of one that runs with PullLazy; why it could not be started after its last run
	Health    *Health   `json:"health,omitempty"`   // while it runs, where it is asked
	Restarts  int       `json:"restarts,omitempty"` // how often its policy started it, since a user did
}

// Container is a container's record with its present state.
type Container struct {
	ID      string        `json:"id"` // 64 hexadecimal digits
	Name    string        `json:"name"`
	Created time.Time     `json:"created"`
	Spec    ContainerSpec `json:"spec"`

	Image       string                `json:"image"`                 // config digest of the image, sha256:…
	ImageName   string                `json:"imageName"`             // as the user typed it
	ImageConfig imagespec.ImageConfig `json:"imageConfig"`           // as of creation
	Layers      []string              `json:"layers"`                // diff IDs, bottom first
	Args        []string              `json:"args"`                  // entrypoint and command after merging
	Healthcheck *Healthcheck          `json:"healthcheck,omitempty"` // after merging; nil: it is not asked

	State State `json:"state"`
	Link  *Link `json:"link,omitempty"` // while running
}

// ContainerSize is what a container's files take, in bytes of content.
type ContainerSize struct {
	Writable int64 // what it has written
	Image    int64 // its image's layers
}

// Why is why a container is as it is.
type Why struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Cause  string `json:"cause"` // one word, for programs: running, created, done, failed, oom, asked, signal, crash, seccomp and others
	Text   string `json:"text"`  // for people
	Exit   *Exit  `json:"exit,omitempty"`
}
