// Command gen writes spec_gen.go, the functions that read the types of runtime-spec.
//
//	go run ./gen    # in internal/runtime/config
package main

import (
	"log"
	"os"
	"reflect"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/base/jsonscan/gen"
)

const file = "spec_gen.go"

func main() {
	src, err := source()
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(file, src, 0o644); err != nil {
		log.Fatal(err)
	}
}

func source() ([]byte, error) {
	return gen.Source(gen.Options{
		Command: "internal/runtime/config/gen",
		Package: "config",
		Roots:   []reflect.Type{reflect.TypeFor[specs.Spec]()},
		Skip:    elsewhere,
	})
}

// elsewhere is a section for other systems than Linux.
func elsewhere(in reflect.Type, f reflect.StructField) bool {
	platform := f.Tag.Get("platform")
	return in == reflect.TypeFor[specs.Spec]() && platform != "" && !strings.Contains(platform, "linux")
}
