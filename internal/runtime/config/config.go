// Package config reads a bundle's config.json, and the parts of one that commands are given, into the types of runtime-spec.
//
// It reads what encoding/json would (package jsonscan says how), at a fraction of the cost in a process that has just started, and its errors
// name the field, what is wanted and where it stands. The sections for Solaris, Windows, virtual machines, z/OS and FreeBSD are skipped: their
// fields stay nil, and of what they hold only the syntax is checked.
//
// Errors are of kind api.InvalidArgument. Those about config.json begin with its name, as the runtime's other errors about it do; a process
// or resources come from a file that only the caller can name.
package config

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/api"
	"brig/internal/base/jsonscan"
)

//go:generate go run ./gen

// Decode reads a config.json.
func Decode(data []byte) (*specs.Spec, error) {
	spec := new(specs.Spec)
	if err := jsonscan.Decode(data, spec, readSpec); err != nil {
		return nil, api.Errorf(api.InvalidArgument, "config.json: %w", err)
	}
	return spec, nil
}

// Read reads a configuration that is within another text.
func Read(s *jsonscan.Scanner, v *specs.Spec) { readSpec(s, v) }

// DecodeProcess reads a process as it stands in a config.json: `exec --process FILE`. The error does not name the file.
func DecodeProcess(data []byte) (*specs.Process, error) {
	p := new(specs.Process)
	if err := jsonscan.Decode(data, p, readProcess); err != nil {
		return nil, &api.Error{Kind: api.InvalidArgument, Err: err}
	}
	return p, nil
}

// DecodeResources reads linux.resources of a config.json: `update --resources FILE`. The error does not name the file.
func DecodeResources(data []byte) (*specs.LinuxResources, error) {
	r := new(specs.LinuxResources)
	if err := jsonscan.Decode(data, r, readLinuxResources); err != nil {
		return nil, &api.Error{Kind: api.InvalidArgument, Err: err}
	}
	return r, nil
}

// Part is what one more process in a container needs of the container's config.json.
type Part struct {
	Process     *specs.Process
	Annotations map[string]string
	linux       *linuxPart
}

type linuxPart struct{ seccomp *specs.LinuxSeccomp }

// Seccomp is linux.seccomp, nil where there is none.
func (p *Part) Seccomp() *specs.LinuxSeccomp {
	if p.linux == nil {
		return nil
	}
	return p.linux.seccomp
}

// DecodePart reads a Part of a config.json and skips the rest.
func DecodePart(data []byte) (*Part, error) {
	p := new(Part)
	if err := jsonscan.Decode(data, p, readPart); err != nil {
		return nil, api.Errorf(api.InvalidArgument, "config.json: %w", err)
	}
	return p, nil
}

var partNames = [...]string{"process", "annotations", "linux"}

func readPart(s *jsonscan.Scanner, v *Part) {
	for more := s.Object(); more; more = s.More() {
		switch s.Field(partNames[:]) {
		case 0:
			jsonscan.Pointer(s, &v.Process, readProcess)
		case 1:
			jsonscan.Map(s, &v.Annotations, jsonscan.String[string])
		case 2:
			jsonscan.Pointer(s, &v.linux, readLinuxPart)
		default:
			s.Skip()
		}
	}
}

var linuxPartNames = [...]string{"seccomp"}

func readLinuxPart(s *jsonscan.Scanner, v *linuxPart) {
	for more := s.Object(); more; more = s.More() {
		if s.Field(linuxPartNames[:]) == 0 {
			jsonscan.Pointer(s, &v.seccomp, readLinuxSeccomp)
		} else {
			s.Skip()
		}
	}
}
