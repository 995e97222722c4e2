package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brig/test/machine"
)

const (
	serverCase = "servers under load"
	serverEnv  = "BRIG_BENCH_SERVERS"
	serverRef  = "bench/servers:latest"
)

// server is a program that listens on $PORT, and who loads it. Both are of the same packages for all engines.
type server struct {
	name   string
	user   string
	start  string // a script, which becomes the server
	ready  string // succeeds when it answers, for the health check
	fill   string // a script on the host's side, once
	warm   string // a script on the host's side, after each start
	loads  []serverLoad
	volume string // the folder of its data, which lies in a volume
}

// serverLoad is a script that loads $HOST:$PORT, and where its output says how many things it did in a second.
type serverLoad struct {
	name, script string
	rate         *regexp.Regexp
}

// allServers compiles its patterns when it is asked.
func allServers() []server {
	pgRate := regexp.MustCompile(`(?m)^tps = ([0-9.]+) `)
	return []server{
		{
			name: "nginx", user: "root", volume: "/var/www",
			start: `printf 'worker_processes 1; pid /tmp/nginx.%s; events { worker_connections 512; } http { access_log off; server { listen %s; root /var/www/html; index index.nginx-debian.html; } }' $PORT $PORT >/tmp/nginx-$PORT.conf
exec nginx -c /tmp/nginx-$PORT.conf -g 'daemon off;'`,
			ready: `exec 3<>/dev/tcp/127.0.0.1/$PORT`,
			warm:  `wrk -t 1 -c 32 -d 1s http://$HOST:$PORT/`,
			loads: []serverLoad{{"wrk", `wrk -t 1 -c 32 -d 2s http://$HOST:$PORT/`, regexp.MustCompile(`Requests/sec: +([0-9.]+)`)}},
		},
		{
			name: "redis", user: "redis", volume: "/var/lib/redis",
			start: `exec redis-server --port $PORT --protected-mode no --save '' --dir /var/lib/redis`,
			ready: `redis-cli -p $PORT ping`,
			warm:  `redis-benchmark -h $HOST -p $PORT -n 30000 -c 20 -q -t set`,
			loads: []serverLoad{
				{"set", `redis-benchmark -h $HOST -p $PORT -n 60000 -c 20 -q -t set | tr '\r' '\n'`, regexp.MustCompile(`SET: ([0-9.]+) requests per second`)},
				{"get", `redis-benchmark -h $HOST -p $PORT -n 60000 -c 20 -q -t get | tr '\r' '\n'`, regexp.MustCompile(`GET: ([0-9.]+) requests per second`)},
			},
		},
		{
			name: "postgresql", user: "postgres", volume: "/var/lib/postgresql", // its owner is PostgreSQL's user
			start: `B=$(echo /usr/lib/postgresql/*/bin) D=/var/lib/postgresql/bench-$PORT
[ -e $D ] || { $B/initdb -A trust -D $D >/dev/null && echo 'host all all all trust' >>$D/pg_hba.conf; }
exec $B/postgres -D $D -p $PORT -c listen_addresses='*' -c unix_socket_directories=/tmp`,
			ready: `pg_isready -h 127.0.0.1 -p $PORT`,
			fill:  `$(echo /usr/lib/postgresql/*/bin/pgbench) -h $HOST -p $PORT -U postgres -i -s 10 -q postgres`,
			warm:  `$(echo /usr/lib/postgresql/*/bin/pgbench) -h $HOST -p $PORT -U postgres -S -c 8 -T 1 postgres`,
			loads: []serverLoad{
				{"pgbench -S", `$(echo /usr/lib/postgresql/*/bin/pgbench) -h $HOST -p $PORT -U postgres -S -c 8 -T 2 postgres`, pgRate},
				{"pgbench", `$(echo /usr/lib/postgresql/*/bin/pgbench) -h $HOST -p $PORT -U postgres -c 8 -T 3 postgres`, pgRate},
			},
		},
	}
}

// place is where a server runs: on the machine itself, or in a container of an engine on one of its networks.
type place struct {
	name       string
	engine     *engine // nil: a process without a container
	limited    bool    // that process has control groups with the containers' limits
	network    string
	host, port string
	restart    func() error
	stop       func()
}

// The processors of the servers, and of what loads them: with one each, what a request costs the server is what is seen, and the scheduler's choice of who shares a processor with whom is not.
// On a machine of one processor they share it.
func serverCPU() string { return strconv.Itoa(slices.Max(mayUse())) }

func clientCPU() string { return strconv.Itoa(slices.Min(mayUse())) }

// mayUse are the numbers of the processors that there are for this program.
func mayUse() (list []int) {
	var set unix.CPUSet
	_ = unix.SchedGetaffinity(0, &set) // a valid set: it cannot fail
	for i := range 8 * len(set) * 8 {
		if set.IsSet(i) {
			list = append(list, i)
		}
	}
	return list
}

// servers loads Debian's servers in each place in turns, while containers start and stop beside them. What it prints is the time of a thousand requests.
func servers(b *bench, c testcase) error {
	bare := filepath.Join(b.dir, "bare")
	if err := os.Mkdir(bare, 0o755); err != nil {
		return err
	}
	if err := b.do("tar", "-xpf", os.Getenv(serverEnv), "-C", bare); err != nil {
		return err
	}
	for _, m := range [][]string{{"--bind", "/dev", bare + "/dev"}, {"-t", "proc", "proc", bare + "/proc"}} {
		if err := b.do(append([]string{"mount"}, m...)...); err != nil {
			return err
		}
	}
	archive := filepath.Join(b.dir, "servers.tar")
	if err := machine.WriteArchive(archive, serverRef, os.Getenv(serverEnv)); err != nil {
		return err
	}
	for _, e := range b.engines {
		if e.cli != nil {
			if err := b.do(e.cli("load", "-i", archive)...); err != nil {
				return err
			}
		}
	}
	end := b.churn()
	defer end()
	for n, s := range allServers() {
		places := []*place{{name: "process", host: "127.0.0.1"}, {name: "process, limited", host: "127.0.0.1", limited: true}}
		for _, network := range []string{"host", "bridge"} {
			for _, e := range b.engines {
				if e.cli != nil {
					places = append(places, &place{name: e.name + " " + network, engine: e, network: network, host: "127.0.0.1"})
				}
			}
		}
		if err := b.serve(&s, bare, places, 7000+100*n); err != nil {
			return err
		}
	}
	return nil
}

// serve starts one server everywhere, loads all, and reports.
func (b *bench) serve(s *server, bare string, places []*place, port int) error {
	for i, p := range places {
		p.port = strconv.Itoa(port + i)
		if err := b.launch(s, bare, p); err != nil {
			return err
		}
		defer p.stop()
		if s.fill != "" {
			if _, err := b.beside(bare, p, s.fill); err != nil {
				return err
			}
		}
	}
	for _, l := range s.loads {
		all := make([]series, len(places))
		for i, p := range places {
			all[i].engine = p.name
		}
		for round := range b.rounds + 1 { // the first does not count
			for _, i := range rand.Perm(len(places)) {
				if all[i].err != nil || b.ctx.Err() != nil {
					continue
				}
				out, err := b.loaded(s, bare, places[i], l.script)
				if err == nil {
					var rate float64
					if m := l.rate.FindStringSubmatch(out); m == nil {
						err = fmt.Errorf("%s says no rate: %s", l.name, out)
					} else if rate, err = strconv.ParseFloat(m[1], 64); err == nil && rate > 0 && round > 0 {
						all[i].took = append(all[i].took, time.Duration(float64(time.Second)*1000/rate))
					}
				}
				all[i].err = err
			}
		}
		report(os.Stdout, fmt.Sprintf("%s: %s, %s (ms for 1,000, load %s)", serverCase, s.name, l.name, load()), all)
	}
	return nil
}

// loaded restarts the server, loads it, and returns what was printed. Two starts of one program differ by a tenth, by the pages that they happen to be given; those of one start do not.
func (b *bench) loaded(s *server, bare string, p *place, script string) (string, error) {
	if err := p.restart(); err != nil {
		return "", err
	}
	if err := b.answers(s, p); err != nil {
		return "", err
	}
	if _, err := b.beside(bare, p, s.warm); err != nil {
		return "", err
	}
	return b.beside(bare, p, script)
}

// launch starts a server in one place and waits until it answers.
func (b *bench) launch(s *server, bare string, p *place) error {
	var err error
	if p.engine == nil {
		err = b.process(s, bare, p)
	} else {
		err = b.container(s, p)
	}
	if err == nil {
		err = b.answers(s, p)
	}
	if err != nil && p.stop != nil {
		p.stop()
	}
	return err
}

// process starts a server without a container.
func (b *bench) process(s *server, bare string, p *place) error {
	enter, remove := "", func() {}
	if p.limited {
		var err error
		if enter, remove, err = limited("bench-" + s.name); err != nil {
			return err
		}
	}
	var cmd *exec.Cmd
	start := func() error {
		cmd = exec.Command("sh", "-c", enter+`exec "$@"`, "sh", "taskset", "-c", serverCPU(), "chroot", "--userspec="+s.user, bare, "env", "PORT="+p.port, "bash", "-c", s.start)
		return cmd.Start()
	}
	end := func() {
		if cmd.Process == nil { // it could not be started again
			return
		}
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
	if err := start(); err != nil {
		remove()
		return err
	}
	p.stop = func() { end(); remove() }
	p.restart = func() error { end(); return start() }
	return nil
}

// container starts a server in one.
func (b *bench) container(s *server, p *place) error {
	name := "bench-" + s.name + "-" + p.network
	args := []string{"run", "-d", "--name", name, "--network", p.network, "-e", "PORT=" + p.port, "-u", s.user, "--memory", "2g", "--cpus", "2", "--cpuset-cpus", serverCPU(), "--pids-limit", "200",
		"--health-cmd", s.ready, "--health-interval", "5s", "-v", name + ":" + s.volume}
	p.stop = func() { _ = b.do(p.engine.cli("rm", "-f", "-v", name)...) }
	find := func() error {
		if p.network == "host" {
			return nil
		}
		ask := p.engine.cli("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name)
		out, err := exec.Command(ask[0], ask[1:]...).Output()
		if err != nil {
			return fmt.Errorf("%s: inspect: %w", name, err)
		}
		p.host = strings.TrimSpace(string(out))
		return nil
	}
	p.restart = func() error {
		if err := b.do(p.engine.cli("restart", name)...); err != nil {
			return err
		}
		return find()
	}
	if err := b.do(p.engine.cli(append(args, serverRef, "bash", "-c", s.start)...)...); err != nil {
		return err
	}
	return find()
}

// answers waits until a server does.
func (b *bench) answers(s *server, p *place) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(p.host, p.port), time.Second)
		if err == nil {
			conn.Close()
			time.Sleep(500 * time.Millisecond) // PostgreSQL listens before it takes anybody in
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s, %s: it does not answer: %w", s.name, p.name, err)
		}
	}
}

// beside runs a script among the bare files, without a container, and returns what it printed.
func (b *bench) beside(bare string, p *place, script string) (string, error) {
	cmd := exec.CommandContext(b.ctx, "taskset", "-c", clientCPU(), "chroot", bare, "env", "HOST="+p.host, "PORT="+p.port, "bash", "-o", "pipefail", "-c", script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return string(out), nil
}

// churn has the first engine start and stop a container five times a second, until the returned function is called.
func (b *bench) churn() (end func()) {
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		var first error
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- first
				return
			case <-time.After(200 * time.Millisecond):
			}
			if err := b.do(b.engines[0].run("bridge", fmt.Sprint("bench-churn-", n), "true")...); first == nil {
				first = err
			}
		}
	}()
	return func() {
		close(stop)
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "bench: beside the servers:", err)
		}
	}
}
