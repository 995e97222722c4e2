package software

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// python runs testdata/busy.py: threads, processes, SQLite, sockets, locks, signals and clocks.
func python(p *place) {
	out := p.run("--rm", "-v", absolute(p.T, "testdata")+":/srv:ro", "-v", "/data", image, "python3", "/srv/busy.py", p.pick("20", "2"), "/data")
	if out != "all done" {
		p.Errorf("busy.py: %s", out)
	}
}

// nginx serves a volume through a published port, under load, while a file of it is written anew by another container.
func nginx(p *place) {
	const conf = `worker_processes 2; error_log stderr warn; events { worker_connections 512; } http { access_log off; server { listen 8080; root /www; } }`
	p.Cleanup(func() { p.brig("volume", "rm", "-f", "www") })
	p.run("--rm", "-v", "www:/www", image, "sh", "-c", "cp /var/www/html/index.nginx-debian.html /www/index.html; head -c 3000000 /dev/urandom >/www/big; chmod 755 /www")
	p.serve("web", "8080", "-v", "www:/www:ro", image, "sh", "-c", `echo "`+conf+`" >/tmp/conf && exec nginx -c /tmp/conf -g 'daemon off;'`)
	const fetch = `import hashlib, sys, urllib.request; print(hashlib.sha256(urllib.request.urlopen("http://127.0.0.1:8080/" + sys.argv[1]).read()).hexdigest())`
	p.await("\n", "web", "python3", "-c", fetch, "index.html")
	want := strings.Fields(p.run("--rm", "-v", "www:/www", image, "sha256sum", "/www/big"))[0]
	for range 5 {
		if got := strings.TrimSpace(p.client("python3", "-c", fetch, "big").Out); got != want {
			p.Errorf("a file of 3 MB came with hash %q, is %s", got, want)
		}
	}
	r := p.client("wrk", "-t", "2", "-c", p.pick("32", "8"), "-d", "5s", "--timeout", "30s", "http://127.0.0.1:8080/")
	rate := regexp.MustCompile(`Requests/sec: +([0-9.]+)`).FindStringSubmatch(r.Out)
	if rate == nil || rate[1] == "0.00" || strings.Contains(r.Out, "Socket errors") || strings.Contains(r.Out, "Non-2xx") {
		p.Errorf("wrk: %s", r)
	} else {
		p.Logf("%s requests a second", rate[1])
	}
	p.run("--rm", "-v", "www:/www", image, "sh", "-c", "echo changed >/www/new")
	p.await(fmt.Sprintf("%x", sha256.Sum256([]byte("changed\n"))), "web", "python3", "-c", fetch, "new")
	p.brig("exec", "web", "nginx", "-t", "-c", "/tmp/conf")
	p.brig("stop", "-t", "60", "web")
	if code := p.brig("inspect", "-f", "{{.State.ExitCode}}", "web"); code != "0" {
		p.Errorf("nginx ended with %s after stop", code)
	}
	if log := p.logs("web"); strings.Contains(log, "alert") || strings.Contains(log, "emerg") {
		p.Errorf("nginx's log: %s", log)
	}
}

// redis keeps what it was told through a restart, and, since each command is written down before it is answered, through a kill.
func redis(p *place) {
	p.serve("redis", "6379", "-u", "redis", "-v", "/var/lib/redis", image, "redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "yes", "--dir", "/var/lib/redis")
	cli := func(args ...string) string {
		return strings.TrimSpace(p.client(append([]string{"redis-cli", "-h", "127.0.0.1"}, args...)...).Out)
	}
	p.await("PONG", "redis", "redis-cli", "-h", "127.0.0.1", "ping")
	r := p.client("redis-benchmark", "-h", "127.0.0.1", "-n", p.pick("20000", "2000"), "-c", "20", "-r", "100000", "-q", "-t", "set,get,incr,lpush,zadd,mset")
	if strings.Count(r.Out, "requests per second") != 6 || r.Code != 0 || strings.Contains(r.Out+r.Err, "rror") {
		p.Errorf("redis-benchmark: %s", r)
	}
	for _, end := range [][]string{{"restart", "-t", "60", "redis"}, {"kill", "redis"}} {
		cli("set", "last", strings.Join(end, " "))
		before := cli("dbsize")
		if n, err := strconv.Atoi(before); err != nil || n < 100 {
			p.Fatalf("dbsize: %q", before)
		}
		p.brig(end...)
		if end[0] == "kill" {
			p.brig("wait", "redis")
			p.brig("start", "redis")
		}
		p.await("PONG", "redis", "redis-cli", "-h", "127.0.0.1", "ping")
		if after, last := cli("dbsize"), cli("get", "last"); after != before || last != strings.Join(end, " ") {
			p.Errorf("after %s there are %s keys and %q, before %s\n%s", end[0], after, last, before, p.logs("redis"))
		}
	}
	p.brig("stop", "-t", "60", "redis")
	if code := p.brig("inspect", "-f", "{{.State.ExitCode}}", "redis"); code != "0" {
		p.Errorf("redis ended with %s after stop", code)
	}
}

// postgresql is filled and loaded by pgbench; then its container is killed under load, and after recovery it has every transaction that was confirmed.
func postgresql(p *place) {
	const script = `B=$(echo /usr/lib/postgresql/*/bin) D=/var/lib/postgresql/data
[ -e $D/PG_VERSION ] || { $B/initdb -A trust -D $D.new >/dev/null && echo 'host all all all trust' >>$D.new/pg_hba.conf && mv $D.new $D; } || exit 1
exec $B/postgres -D $D -c listen_addresses='*' -c unix_socket_directories=/tmp`
	p.serve("pg", "5432", "-u", "postgres", "-v", "/var/lib/postgresql", "--shm-size", "128m", image, "bash", "-c", script)
	ask := func(query string) string {
		return strings.TrimSpace(p.client("psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", query).Out)
	}
	bench := func(args ...string) (out string, confirmed int) {
		r := p.client("bash", "-c", `$(echo /usr/lib/postgresql/*/bin/pgbench) `+strings.Join(args, " ")+` "host=127.0.0.1 user=postgres dbname=postgres tcp_user_timeout=10000 keepalives_idle=5 keepalives_interval=2 keepalives_count=3"`)
		if m := regexp.MustCompile(`transactions actually processed: (\d+)`).FindStringSubmatch(r.Out); m != nil {
			confirmed, _ = strconv.Atoi(m[1])
		}
		return r.String(), confirmed
	}
	p.await("1", "pg", "psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", "select 1")
	if out, _ := bench("-i", "-q"); !strings.Contains(out, "code 0") || ask("select count(*) from pgbench_accounts") != "100000" {
		p.Fatalf("pgbench -i: %s", out)
	}
	out, done := bench("-c", "4", "-T", "5")
	if !strings.Contains(out, "code 0") || done == 0 || ask("select count(*) from pgbench_history") != strconv.Itoa(done) {
		p.Errorf("pgbench: %s", out)
	}
	p.Logf("%d transactions in 5 s", done)

	// A Sentry or a machine that is killed tells nobody that its connections are gone: the client has time limits for that.
	var more int
	var load sync.WaitGroup
	load.Go(func() { out, more = bench("-n", "-c", "4", "-T", "60") })
	for deadline := time.Now().Add(time.Minute); ask("select count(*) > "+strconv.Itoa(done)+" from pgbench_history") != "t"; {
		if time.Now().After(deadline) {
			p.Errorf("pgbench does nothing")
			break
		}
	}
	p.brig("kill", "pg")
	if code := p.brig("wait", "pg"); code != "137" {
		p.Errorf("killed, it ended with %s", code)
	}
	load.Wait()
	p.brig("start", "pg")
	p.await("1", "pg", "psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", "select 1")
	if log := p.logs("pg"); !strings.Contains(log, "was not properly shut down; automatic recovery in progress") {
		p.Errorf("no recovery in its log: %s", log)
	}
	rows, _ := strconv.Atoi(ask("select count(*) from pgbench_history"))
	if more == 0 || rows < done+more || rows > done+more+4 { // of each client one may have been done and not told
		p.Errorf("after recovery there are %d transactions, %d were confirmed\n%s", rows, done+more, out)
	}
	sums := ask("select (select sum(abalance) from pgbench_accounts) - (select sum(delta) from pgbench_history), (select sum(tbalance) from pgbench_tellers) - (select sum(bbalance) from pgbench_branches)")
	if sums != "0|0" {
		p.Errorf("after recovery the sums differ: %s", sums)
	}
	p.brig("stop", "-t", "60", "-s", "INT", "pg") // PostgreSQL's fast shutdown
	if code := p.brig("inspect", "-f", "{{.State.ExitCode}}", "pg"); code != "0" {
		p.Errorf("PostgreSQL ended with %s after stop\n%s", code, p.logs("pg"))
	}
}

// goBuild compiles a small program with the machine's Go, and runs it. Where all is slow, Go's library has been compiled before, by a container of level chroot: what is
// left is the program and the linker.
func goBuild(p *place) {
	p.Cleanup(func() { p.brig("volume", "rm", "-f", "go") })
	build := func(flags string) []string {
		return []string{"--rm", "--memory", "2g", "-v", goRoot(p.T) + ":/usr/local/go:ro", "-v", absolute(p.T, "testdata/program") + ":/src:ro", "-v", "go:/go", "-w", "/src",
			"-e", "GOCACHE=/go/cache", "-e", "GOPATH=/go", "-e", "CGO_ENABLED=0", "-e", "GOFLAGS=-buildvcs=false", "-e", "GOTOOLCHAIN=local",
			image, "sh", "-c", "/usr/local/go/bin/go build " + flags + " -o /tmp/words . && echo a dog and a cat | /tmp/words"}
	}
	if p.slow {
		p.brig(append([]string{"run", "--isolation", "chroot", "--network", "host"}, build("")...)...)
	}
	if out := p.run(build("-gcflags=-N")...); out != "a 2\nand 1\ncat 1\ndog 1" {
		p.Errorf("the program says %s", out)
	}
}
