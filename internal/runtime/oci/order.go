package oci

import (
	"brig/api"
	"brig/internal/base/jsonscan"
	"brig/internal/runtime/config"
)

var orderNames = [...]string{
	"ID", "Bundle", "RootPath", "MountPoint", "Root", "Spec", "Preserve", "NoPivot", "NoNewKeyring",
	"Cgroup", "Gate", "RootFD", "Tasks", "Namespaces", "NetNS", "Sources", "LookUp", "Locked",
}

// readOrder reads what the outer process has written with package record.
func readOrder(s *jsonscan.Scanner, o *order) {
	for more := s.Object(); more; more = s.More() {
		switch s.Field(orderNames[:]) {
		case 0:
			jsonscan.String(s, &o.ID)
		case 1:
			jsonscan.String(s, &o.Bundle)
		case 2:
			jsonscan.String(s, &o.RootPath)
		case 3:
			jsonscan.String(s, &o.MountPoint)
		case 4:
			jsonscan.List(s, &o.Root, readMount)
		case 5:
			jsonscan.Pointer(s, &o.Spec, config.Read)
		case 6:
			jsonscan.Int(s, &o.Preserve)
		case 7:
			jsonscan.Bool(s, &o.NoPivot)
		case 8:
			jsonscan.Bool(s, &o.NoNewKeyring)
		case 9:
			jsonscan.String(s, &o.Cgroup)
		case 10:
			jsonscan.Bool(s, &o.Gate)
		case 11:
			jsonscan.Bool(s, &o.RootFD)
		case 12:
			jsonscan.Int(s, &o.Tasks)
		case 13:
			jsonscan.List(s, &o.Namespaces, jsonscan.Int[int])
		case 14:
			jsonscan.Bool(s, &o.NetNS)
		case 15:
			jsonscan.List(s, &o.Sources, jsonscan.Int[int])
		case 16:
			jsonscan.Bool(s, &o.LookUp)
		case 17:
			jsonscan.List(s, &o.Locked, jsonscan.Int[int])
		default:
			s.Skip()
		}
	}
}

var mountNames = [...]string{"type", "source", "target", "options"}

func readMount(s *jsonscan.Scanner, m *api.Mount) {
	for more := s.Object(); more; more = s.More() {
		switch s.Field(mountNames[:]) {
		case 0:
			jsonscan.String(s, &m.Type)
		case 1:
			jsonscan.String(s, &m.Source)
		case 2:
			jsonscan.String(s, &m.Target)
		case 3:
			jsonscan.List(s, &m.Options, jsonscan.String[string])
		default:
			s.Skip()
		}
	}
}
