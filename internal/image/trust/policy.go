// Package trust judges by containers-policy.json(5), as podman, skopeo and CRI-O do, whether an image may come in and may run.
//
// A [Policy] says for each place that an image can come from what is required of it: nothing, that it stays out, or a signature that one
// of some keys made over the image's digest and its name. [Policy.Judge] decides about a [Subject] with the [Signature]s that were found
// for it; it asks neither network nor store, so that the same decision can be made again offline, when the policy has changed.
//
// Signatures are sigstore's: those that cosign keeps beside the image as the tag sha256-HEX.sig and those that refer to it, as OCI 1.1 has
// it (see [Fetch]). What the policy asks for and this package cannot check (GPG, certificates of Fulcio, transparency logs) is a reason
// to reject the image, never passed over. All of policy, keys and signatures is read under limits; signatures are an attacker's input.
package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"brig/api"
	"brig/internal/image/ref"
)

// The limits on a policy.
const (
	maxPolicy       = 1 << 20  // bytes of the file
	maxKey          = 64 << 10 // bytes of a key
	maxKeys         = 100      // of one requirement
	maxRequirements = 100      // of one scope
)

var (
	errNotObject = errors.New("not a JSON object")
	errTrailing  = errors.New("something follows the JSON object")
)

// Policy is a policy that was read and found sound.
type Policy struct {
	fallback   []requirement
	transports map[string]map[string][]requirement // by transport and scope
}

// The types of requirements.
const (
	typeAccept   = "insecureAcceptAnything"
	typeReject   = "reject"
	typeGPG      = "signedBy"
	typeBase     = "signedBaseLayer"
	typeSigstore = "sigstoreSigned"
)

// requirement is one of those that an image must meet all of.
type requirement struct {
	kind     string
	paths    []string // of keys
	data     [][]byte // keys
	identity identity
	// unable is what this requirement asks for beyond what can be checked here.
	unable string
}

// Parse reads a policy. What it does not understand is an error: it could be a restriction.
func Parse(b []byte) (*Policy, error) {
	if len(b) > maxPolicy {
		return nil, api.Errorf(api.InvalidArgument, "longer than the %d bytes that a policy may have", maxPolicy)
	}
	var fallback, transports json.RawMessage
	has, err := object(b, map[string]any{"default": &fallback, "transports": &transports})
	if err != nil {
		return nil, invalid(err)
	}
	if !has["default"] {
		return nil, invalid(errors.New("there is no default"))
	}
	p := &Policy{transports: map[string]map[string][]requirement{}}
	if p.fallback, err = requirements(fallback); err != nil {
		return nil, invalid(fmt.Errorf("default: %w", err))
	}
	if !has["transports"] {
		return p, nil
	}
	return p, invalid(each(transports, func(transport string, scopes json.RawMessage) error {
		p.transports[transport] = map[string][]requirement{}
		err := each(scopes, func(scope string, value json.RawMessage) error {
			if transport == Docker {
				if err := checkScope(scope); err != nil {
					return err
				}
			}
			r, err := requirements(value)
			if err != nil {
				return fmt.Errorf("%q: %w", scope, err)
			}
			p.transports[transport][scope] = r
			return nil
		})
		if err != nil {
			return fmt.Errorf("transport %s: %w", transport, err)
		}
		return nil
	}))
}

func invalid(err error) error {
	if err == nil {
		return nil
	}
	return api.Errorf(api.InvalidArgument, "%w", err)
}

// checkScope refuses what could be meant for a scope and would never match.
func checkScope(scope string) error {
	if strings.Contains(scope, "*") && (!strings.HasPrefix(scope, "*.") || strings.ContainsAny(scope[2:], "*/:")) {
		return fmt.Errorf("scope %q: a wildcard stands for the first parts of a host's name, and nothing follows the host: *.example.com", scope)
	}
	return nil
}

func requirements(b []byte) ([]requirement, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("no requirement: use insecureAcceptAnything or reject")
	}
	if len(list) > maxRequirements {
		return nil, fmt.Errorf("%d requirements, more than the %d that a scope may have", len(list), maxRequirements)
	}
	var all []requirement
	for i, e := range list {
		r, err := parseRequirement(e)
		if err != nil {
			return nil, fmt.Errorf("requirement %d: %w", i+1, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// typeOf reads the type of an object whose other keys depend on it.
func typeOf(b []byte) (string, error) {
	var t string
	found := false
	err := each(b, func(key string, value json.RawMessage) error {
		if key != "type" {
			return nil
		}
		found = true
		return json.Unmarshal(value, &t)
	})
	if err == nil && !found {
		err = errors.New("it has no type")
	}
	return t, err
}

func parseRequirement(b []byte) (requirement, error) {
	t, err := typeOf(b)
	if err != nil {
		return requirement{}, err
	}
	r := requirement{kind: t}
	var skip string
	switch t {
	case typeAccept, typeReject:
		_, err = object(b, map[string]any{"type": &skip})
	case typeGPG:
		var keyType, path, data string
		var paths []string
		var identity json.RawMessage
		_, err = object(b, map[string]any{"type": &skip, "keyType": &keyType, "keyPath": &path, "keyPaths": &paths, "keyData": &data, "signedIdentity": &identity})
		r.unable = "a GPG signature (signedBy)"
	case typeBase:
		var identity json.RawMessage
		_, err = object(b, map[string]any{"type": &skip, "baseLayerIdentity": &identity})
		r.unable = "a signed base layer (signedBaseLayer)"
	case typeSigstore:
		return parseSigstore(b)
	default:
		err = fmt.Errorf("unknown type %q", t)
	}
	return r, err
}

// parseSigstore reads a requirement of type sigstoreSigned.
func parseSigstore(b []byte) (requirement, error) {
	r := requirement{kind: typeSigstore, identity: identity{kind: matchRepoDigestOrExact}}
	var skip, path string
	var paths []string
	var data []byte
	var datas [][]byte
	var fulcio, pki, signed json.RawMessage
	var logPath, logPaths, logData, logDatas json.RawMessage
	has, err := object(b, map[string]any{
		"type": &skip, "keyPath": &path, "keyPaths": &paths, "keyData": &data, "keyDatas": &datas, "fulcio": &fulcio, "pki": &pki, "signedIdentity": &signed,
		"rekorPublicKeyPath": &logPath, "rekorPublicKeyPaths": &logPaths, "rekorPublicKeyData": &logData, "rekorPublicKeyDatas": &logDatas,
	})
	if err != nil {
		return r, err
	}
	sources := 0
	for _, key := range []string{"keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki"} {
		if has[key] {
			sources++
		}
	}
	if sources != 1 {
		return r, fmt.Errorf("%s wants exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki", typeSigstore)
	}
	for key := range has {
		if strings.HasPrefix(key, "rekorPublicKey") {
			r.unable = "an entry in a transparency log (" + key + ")"
		}
	}
	switch {
	case has["fulcio"]:
		r.unable = "a certificate of Fulcio (fulcio)"
	case has["pki"]:
		r.unable = "a certificate of a PKI (pki)"
	}
	if has["keyPath"] {
		paths = []string{path}
	}
	if has["keyData"] {
		datas = [][]byte{data}
	}
	if r.paths, r.data = paths, datas; r.unable == "" {
		if err := r.checkKeys(); err != nil {
			return r, err
		}
	}
	if has["signedIdentity"] {
		r.identity, err = parseIdentity(signed)
	}
	return r, err
}

// checkKeys reads what keys the policy holds itself; those in files are read when they are needed.
func (r *requirement) checkKeys() error {
	if n := len(r.paths) + len(r.data); n == 0 || n > maxKeys {
		return fmt.Errorf("%d keys: want 1 to %d", n, maxKeys)
	}
	for _, p := range r.paths {
		if !strings.HasPrefix(p, "/") {
			return fmt.Errorf("key %q: the path must be absolute, it would mean another key in another folder", p)
		}
	}
	for _, d := range r.data {
		if _, err := parseKey(d); err != nil {
			return fmt.Errorf("key in the policy: %w", err)
		}
	}
	return nil
}

// Docker is the transport of registries; the others are named as in containers-transports(5).
const (
	Docker        = "docker"
	DockerArchive = "docker-archive"
	OCIArchive    = "oci-archive"
	OCI           = "oci"
	Tarball       = "tarball"            // brig import
	Storage       = "containers-storage" // made here, of a container: always accepted, as by podman
)

// find returns the requirements for a subject and, for messages, where in the policy they stand.
func (p *Policy) find(s Subject) ([]requirement, string) {
	if scopes, ok := p.transports[s.Transport]; ok {
		for _, scope := range s.scopes() {
			if r, ok := scopes[scope]; ok {
				where := "transport " + s.Transport
				if scope != "" {
					where = "scope " + scope
				}
				return r, where
			}
		}
	}
	return p.fallback, "the default"
}

// scopes are the places in a policy where requirements for the subject may stand, the narrowest first.
func (s Subject) scopes() []string {
	var list []string
	switch s.Transport {
	case Docker:
		r, err := ref.Parse(s.Reference)
		if err != nil {
			break
		}
		list = dockerScopes(r)
	case OCIArchive, OCI:
		for p := s.Reference; len(p) > 1 && p[0] == '/'; p = p[:strings.LastIndexByte(p, '/')] {
			list = append(list, p)
		}
	}
	return append(list, "")
}

// dockerScopes: the reference itself, the repository and the namespaces above it, the host, then wildcards for the host without its port.
func dockerScopes(r ref.Ref) []string {
	var list []string
	if r.Digest != "" {
		list = append(list, r.Name()+"@"+r.Digest)
	}
	if r.Tag != "" {
		list = append(list, r.Name()+":"+r.Tag)
	}
	name := r.Name()
	for {
		list = append(list, name)
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	host, _, _ := strings.Cut(name, ":")
	for {
		_, rest, found := strings.Cut(host, ".")
		if !found {
			return list
		}
		list, host = append(list, "*."+rest), rest
	}
}

// acceptsAll reports whether the policy is none.
func (p *Policy) acceptsAll() bool {
	strict := func(rules []requirement) bool {
		return slices.ContainsFunc(rules, func(r requirement) bool { return r.kind != typeAccept })
	}
	if strict(p.fallback) {
		return false
	}
	for _, scopes := range p.transports {
		for _, rules := range scopes {
			if strict(rules) {
				return false
			}
		}
	}
	return true
}
