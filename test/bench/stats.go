package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"
)

func cpus() int { return runtime.NumCPU() }

// series is what one engine took in each round of a case, in the order of the rounds. A round that failed is not in it, and ends the
// engine's part in the case.
type series struct {
	engine string
	took   []time.Duration
	err    error
}

// quantile returns the q-quantile of d (0 to 1) by nearest rank; 0 of nothing.
func quantile[T int64 | float64 | time.Duration](d []T, q float64) T {
	if len(d) == 0 {
		return 0
	}
	s := slices.Clone(d)
	slices.Sort(s)
	i := int(q*float64(len(s))+0.999999) - 1
	return s[min(max(i, 0), len(s)-1)]
}

// ratios divides each round of d by the same round of base.
func ratios(d, base []time.Duration) []float64 {
	n := min(len(d), len(base))
	out := make([]float64, 0, n)
	for i := range n {
		if base[i] > 0 {
			out = append(out, float64(d[i])/float64(base[i]))
		}
	}
	return out
}

// report prints a case: milliseconds, and the ratio to the first engine's rounds as median and quartiles.
func report(w io.Writer, title string, all []series) {
	fmt.Fprintf(w, "\n%s\n", title)
	if len(all) == 0 {
		fmt.Fprintln(w, "  no engine here can do this")
		return
	}
	fmt.Fprintf(w, "  %-12s %5s %9s %9s %9s %9s   %s\n", "ms", "n", "median", "p95", "p99", "min", "x "+all[0].engine+" [quartiles]")
	for _, s := range all {
		if s.err != nil {
			fmt.Fprintf(w, "  %-12s %s\n", s.engine, strings.TrimSpace(s.err.Error()))
			continue
		}
		r := ratios(s.took, all[0].took)
		ratio := ""
		if len(r) > 0 {
			ratio = fmt.Sprintf("%6.2f [%.2f – %.2f]", quantile(r, 0.5), quantile(r, 0.25), quantile(r, 0.75))
		}
		fmt.Fprintf(w, "  %-12s %5d %9.2f %9.2f %9.2f %9.2f   %s\n", s.engine, len(s.took),
			ms(quantile(s.took, 0.5)), ms(quantile(s.took, 0.95)), ms(quantile(s.took, 0.99)), ms(quantile(s.took, 0)), ratio)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
