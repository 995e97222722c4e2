package change

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"brig/api"
)

// TestApply: what docker 20 and buildah make of the same instructions.
func TestApply(t *testing.T) {
	for in, want := range map[string]string{
		`CMD ["a", "b c"]`: `{"Cmd":["a","b c"]}`,
		`CMD a "b c" $X`:   `{"Cmd":["/bin/sh","-c","a \"b c\" $X"]}`,
		`cmd [not json`:    `{"Cmd":["/bin/sh","-c","[not json"]}`,
		`CMD []`:           `{"Cmd":[]}`,
		`CMD`:              `{}`,
		`ENTRYPOINT ["e"]`: `{"Entrypoint":["e"]}`,
		`ENTRYPOINT []`:    `{"Entrypoint":[]}`,
		`ENV A=1 B="two words" C='$A' D=a\ b E=$B`:                                      `{"Env":["A=1","B=two words","C=$A","D=a b","E="]}`,
		"ENV A=1\nENV B=$A-${A}x C=${N:-none} D=${A:+set} E=${N+x} F=\\$A G=\"a\\\"b\"": `{"Env":["A=1","B=1-1x","C=none","D=set","E=","F=$A","G=a\"b"]}`,
		`ENV A  all of it `:           `{"Env":["A=all of it"]}`,
		`ENV A=`:                      `{"Env":["A="]}`,
		"ENV A=1\nENV A=2":            `{"Env":["A=2"]}`,
		"ENV A=1 \\\n  B=2":           `{"Env":["A=1","B=2"]}`,
		"# words\n\nUSER x":           `{"User":"x"}`,
		`EXPOSE 80 53/UDP 90-92/tcp`:  `{"ExposedPorts":{"53/udp":{},"80/tcp":{},"90/tcp":{},"91/tcp":{},"92/tcp":{}}}`,
		`LABEL a=b "c d"="e f" g.h=i`: `{"Labels":{"a":"b","c d":"e f","g.h":"i"}}`,
		`LABEL a b c`:                 `{"Labels":{"a":"b c"}}`,
		`VOLUME ["/a", "/b c"]`:       `{"Volumes":{"/a":{},"/b c":{}}}`,
		`VOLUME /a /b`:                `{"Volumes":{"/a":{},"/b":{}}}`,
		"WORKDIR /a\nWORKDIR b/../c":  `{"WorkingDir":"/a/c"}`,
		`WORKDIR a b`:                 `{"WorkingDir":"/a b"}`,
		`USER 1000:1000`:              `{"User":"1000:1000"}`,
		`STOPSIGNAL SIGUSR1`:          `{"StopSignal":"SIGUSR1"}`,
		`ONBUILD RUN a && b`:          `{"OnBuild":["RUN a \u0026\u0026 b"]}`,
		`HEALTHCHECK NONE`:            `{"Healthcheck":{"Test":["NONE"]}}`,
		`HEALTHCHECK --interval=5m --timeout=3s --retries=4 CMD curl -f http`: `{"Healthcheck":{"Test":["CMD-SHELL","curl -f http"],"Interval":300000000000,"Timeout":3000000000,"Retries":4}}`,
		`HEALTHCHECK --start-period=1s --start-interval=2s CMD ["x"]`:         `{"Healthcheck":{"Test":["CMD","x"],"StartPeriod":1000000000,"StartInterval":2000000000}}`,
	} {
		var c Config
		if err := Apply(&c, []string{in}); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		var got, wanted any
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(json.Unmarshal(b, &got), json.Unmarshal([]byte(want), &wanted)); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(want, `{"Cmd":[]`) || strings.HasPrefix(want, `{"Entrypoint":[]`) {
			want = "{}" // an empty list is no member of the JSON
			wanted = map[string]any{}
		}
		if !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s:\n%s\nwant\n%s", in, b, want)
		}
	}
}

// TestRefused: the config stays as it was.
func TestRefused(t *testing.T) {
	for in, word := range map[string]string{
		"RUN x": "RUN is not", "COPY a b": "COPY is not", "FROM x": "FROM is not", "ENV": "requires", "ENV A": "NAME=VALUE", "ENV A=1 B": "quotes", "ENV =x": "empty", "ENV A='x": "not closed",
		"ENV A=${B": "without", "ENV A=${}": "bad substitution", "ENV A=${B?x}": "modifier", "EXPOSE": "requires", "EXPOSE 0": "1 to 65535", "EXPOSE 65536": "65535", "EXPOSE 9-8": "PORT", "EXPOSE 80/icmp": "protocol", "EXPOSE 1-61533": "more than 50000 ports", "EXPOSE 1-40000 40001-50001": "more than 50000 ports",
		"EXPOSE x": "PORT", "LABEL x": "NAME=VALUE", "VOLUME []": "at least one", `VOLUME [""]`: "empty", "USER a b": "exactly one", "USER $NONE": "empty", "STOPSIGNAL": "requires", "ONBUILD ONBUILD x": "chaining",
		"ONBUILD FROM x": "FROM", "HEALTHCHECK": "requires", "HEALTHCHECK x": "unknown type", "HEALTHCHECK CMD": "missing", "HEALTHCHECK CMD []": "missing", "HEALTHCHECK NONE x": "no arguments",
		"HEALTHCHECK --retries=x CMD x": "number", "HEALTHCHECK --interval=1us CMD x": "millisecond", "HEALTHCHECK --frob=1 CMD x": "--frob", "HEALTHCHECK --retries CMD x": "VALUE",
		"CMD " + strings.Repeat("x", maxText):                                          "more than",
		"ENV X=" + strings.Repeat("x", 20<<10) + strings.Repeat("\nENV Y=$X$X$X", 100): "all words together",
		"ENV X=" + strings.Repeat("x", 20<<10) + "\nENV X=$X$X$X$X":                    "longer than 65536",
	} {
		c := Config{ImageConfig: imagespec.ImageConfig{Env: []string{"A=0"}, Labels: map[string]string{"l": "0"}}}
		err := Apply(&c, []string{"ENV A=9", "LABEL l=9 m=9", in})
		if !errors.Is(err, api.InvalidArgument) || !strings.Contains(err.Error(), word) {
			t.Errorf("%.60s: %v", in, err)
		}
		if c.Env[0] != "A=0" || c.Labels["l"] != "0" || len(c.Labels) != 1 {
			t.Errorf("%.60s: the config was changed: %+v", in, c)
		}
	}
	// The same slices are in the container's record: they are not written to.
	env := []string{"A=0", "B=0"}
	c := Config{ImageConfig: imagespec.ImageConfig{Env: env[:1:1]}}
	if err := Apply(&c, []string{"ENV A=1 C=2"}); err != nil || env[0] != "A=0" || env[1] != "B=0" {
		t.Errorf("%q, %v", env, err)
	}
}

// FuzzApply: no text makes it panic or grow without bound, and what it makes can be written and read again.
func FuzzApply(f *testing.F) {
	for _, s := range []string{
		`ENV A=1 B="${A:-x}" C='y'`, `EXPOSE 1-50000`, `HEALTHCHECK --interval=5s CMD ["x"]`, "LABEL a=b \\\n c=d", `VOLUME ["/a"]`, `CMD ["a"]`, `ENV A=$A$A$A`, "ENV A=${A:-${B:-${C:-x}}}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := Config{ImageConfig: imagespec.ImageConfig{Env: []string{"A=" + strings.Repeat("x", 1000)}}}
		if err := Apply(&c, []string{s}); err != nil {
			if !errors.Is(err, api.InvalidArgument) {
				t.Error(err)
			}
			return
		}
		b, err := json.Marshal(c)
		if err != nil || len(b) > 64<<20 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		var back Config
		if err := json.Unmarshal(b, &back); err != nil {
			t.Error(err)
		}
	})
}
