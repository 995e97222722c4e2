package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	d := []time.Duration{5, 1, 4, 2, 3}
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.2, 1}, {0.5, 3}, {0.95, 5}, {1, 5}} {
		if got := quantile(d, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", d, c.q, got, c.want)
		}
	}
	if d[0] != 5 {
		t.Error("quantile changed its input: rounds are no longer in order")
	}
	if quantile([]float64(nil), 0.5) != 0 {
		t.Error("quantile of nothing is not 0")
	}
}

func TestRatiosPairRounds(t *testing.T) {
	got := ratios([]time.Duration{10, 40, 7}, []time.Duration{5, 10})
	if len(got) != 2 || got[0] != 2 || got[1] != 4 {
		t.Errorf("ratios = %v, want [2 4]", got)
	}
}

func TestReportShowsRatioAndFailure(t *testing.T) {
	var w bytes.Buffer
	report(&w, "case", []series{
		{engine: "brig", took: []time.Duration{10 * time.Millisecond}},
		{engine: "peer", took: []time.Duration{25 * time.Millisecond}},
		{engine: "broken", err: errors.New("no such thing")},
	})
	for _, want := range []string{"  2.50 [2.50 – 2.50]", "broken       no such thing", "x brig"} {
		if !strings.Contains(w.String(), want) {
			t.Errorf("%q is not in:\n%s", want, w.String())
		}
	}
}
