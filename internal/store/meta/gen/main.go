// Command gen writes records_gen.go, the functions that read the records.
//
//	go run ./gen    # in internal/store/meta
package main

import (
	"log"
	"os"
	"reflect"

	"brig/api"
	"brig/internal/base/jsonscan/gen"
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
		Command: "internal/store/meta/gen",
		Package: "meta",
		Roots:   []reflect.Type{reflect.TypeFor[api.Image](), reflect.TypeFor[api.Container]()},
	})
}
