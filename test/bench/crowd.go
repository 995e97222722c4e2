package main

import (
	"fmt"

	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	crowdCase = "500 containers on a network with names"
	crowdSize = 500
	crowdAsk  = 8 // containers that look all names up
)

// crowd starts hundreds of containers on one network of Brig's and reports what they cost, whether each finds each, and what ps and run take beside them.
func crowd(b *bench, c testcase) error {
	i := slices.IndexFunc(b.engines, func(e *engine) bool { return e.name == "brig" })
	if i < 0 {
		return nil
	}
	e := b.engines[i]
	fmt.Printf("\n%s\n", c.name)
	timed := func(what string, rounds int, argv []string) error {
		s := series{engine: e.name}
		for range rounds {
			took, err := clock(argv)
			if err != nil {
				return err
			}
			s.took = append(s.took, took)
		}
		fmt.Printf("  %-28s median %8.2f ms, p95 %8.2f\n", what, ms(quantile(s.took, 0.5)), ms(quantile(s.took, 0.95)))
		return nil
	}
	const rounds = 30
	run := e.run("bridge", "bench-one", "true")
	if err := timed("run, with none", rounds, run); err != nil {
		return err
	}
	if err := timed("ps -a, with none", rounds, e.cli("ps", "-a")); err != nil {
		return err
	}
	const network = "bench-crowd"
	if err := b.do(e.cli("network", "create", network)...); err != nil {
		return err
	}
	names := make([]string, crowdSize)
	for n := range names {
		names[n] = fmt.Sprint("crowd-", n)
	}
	defer func() {
		for chunk := range slices.Chunk(names, 50) {
			_ = b.do(e.cli(append([]string{"rm", "-f"}, chunk...)...)...)
		}
		_ = b.do(e.cli("network", "rm", network)...)
	}()
	begin := time.Now()
	if err := each(8, names, func(name string) error {
		return b.do(e.cli("run", "-d", "--name", name, "--network", network, imageName, "sleep", "3600")...)
	}); err != nil {
		return err
	}
	fmt.Printf("  %-28s %8.2f ms each, eight at a time\n", "start", ms(time.Since(begin))/crowdSize)

	// Each of some asks for all, which is a look-up of each name by another keeper; then all of them ask for one.
	begin = time.Now()
	script := "bad=0; for n in " + strings.Join(names, " ") + "; do ping -c 1 -W 5 $n >/dev/null 2>&1 || { echo $n; bad=1; }; done; exit $bad"
	if err := each(4, names[:crowdAsk], func(name string) error { return b.do(e.exec(name, "sh", "-c", script)...) }); err != nil {
		return err
	}
	if err := each(8, names, func(name string) error { return b.do(e.exec(name, "ping", "-c", "1", "-W", "5", names[0])...) }); err != nil {
		return err
	}
	fmt.Printf("  %-28s %d of %d names were found, and answered, in %.1f s\n", "names", crowdSize*(crowdAsk+1), crowdSize*(crowdAsk+1), time.Since(begin).Seconds())

	time.Sleep(2 * time.Second)
	var total, most int64
	shims := pss(keepers)
	for _, size := range shims {
		total, most = total+size, max(most, size)
	}
	if len(shims) == 0 {
		return fmt.Errorf("no keeper found among %s", strings.Join(keepers, ", "))
	}
	fmt.Printf("  %-28s %d KiB PSS a container, %d at most, of %d\n", "memory", total/int64(len(shims)), most, len(shims))
	time.Sleep(8 * time.Second) // keepers give back what answering took of memory: see doc/adr/0008-names.md
	if err := timed("ps, with 500", rounds, e.cli("ps")); err != nil {
		return err
	}
	if err := timed("run, with 500", rounds, run); err != nil {
		return err
	}
	out, err := exec.Command(e.cli("ps", "-q")[0], e.cli("ps", "-q")[1:]...).Output()
	if n := strings.Count(string(out), "\n"); err != nil || n != crowdSize {
		return fmt.Errorf("%d containers run at the end, want %d (%v)", n, crowdSize, err)
	}
	return nil
}

// each calls f for every name, width at a time, and returns the first error.
func each(width int, names []string, f func(string) error) error {
	next, errs := make(chan string), make(chan error, len(names))
	var wg sync.WaitGroup
	for range width {
		wg.Go(func() {
			for name := range next {
				if err := f(name); err != nil {
					errs <- err
				}
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}
