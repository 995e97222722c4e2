package network

import (
	"net/netip"
	"reflect"
	"testing"

	"brig/internal/base/jsonscan"
	"brig/internal/base/record"
)

// TestRecordsComeBack: every field of what is written is read again.
func TestRecordsComeBack(t *testing.T) {
	ports := []mapping{
		{"tcp", netip.MustParseAddrPort("0.0.0.0:80"), netip.MustParseAddrPort("10.0.0.2:8080"), false},
		{"udp", netip.MustParseAddrPort("[::]:53"), netip.MustParseAddrPort("[fd00::2]:53"), true},
	}
	if n := reflect.TypeFor[mapping]().NumField(); n != len(mappingNames) {
		t.Errorf("a mapping has %d fields, %d are read", n, len(mappingNames))
	}
	data, err := record.Marshal(ports)
	if err != nil {
		t.Fatal(err)
	}
	var got []mapping
	if err := jsonscan.Decode(data, &got, readMappings); err != nil || !reflect.DeepEqual(got, ports) {
		t.Errorf("%s became %+v, %v", data, got, err)
	}
	if n := reflect.TypeFor[subnetFile]().NumField(); n != len(subnetFileNames) {
		t.Errorf("a subnet file has %d fields, %d are read", n, len(subnetFileNames))
	}
	subnets := subnetFile{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/64")}
	if data, err = record.Marshal(subnets); err != nil {
		t.Fatal(err)
	}
	var back subnetFile
	if err := jsonscan.Decode(data, &back, readSubnets); err != nil || back != subnets {
		t.Errorf("%s became %+v, %v", data, back, err)
	}
}
