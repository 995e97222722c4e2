// Command gen writes records_gen.go, the functions that read the records of networks and of containers' links to them.
//
//	go run ./gen    # in internal/network
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
		Command: "internal/network/gen",
		Package: "network",
		Roots:   []reflect.Type{reflect.TypeFor[api.Network](), reflect.TypeFor[api.Link]()},
	})
}
