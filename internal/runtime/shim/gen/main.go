// Command gen writes records_gen.go, the functions that read what a shim leaves on the disk.
//
//	go run ./gen    # in internal/runtime/shim
package main

import (
	"log"
	"os"
	"reflect"

	"brig/api"
	"brig/internal/base/jsonscan/gen"
	"brig/internal/runtime/shim"
)

const file = "records_gen.go"

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
		Command: "internal/runtime/shim/gen",
		Package: "shim",
		Path:    "brig/internal/runtime/shim",
		Roots:   []reflect.Type{reflect.TypeFor[shim.State](), reflect.TypeFor[shim.ExitRecord](), reflect.TypeFor[api.Health]()},
	})
}
