package trust

import (
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"brig/api"
)

// The limits on what is read of signatures.
const (
	maxSignatures = 128       // of one image
	maxPayload    = 64 << 10  // bytes of a payload
	maxBundle     = 256 << 10 // bytes of a bundle: some have certificates and a log's proof
	// MaxStored is how long the document of an image's signatures may be, in bytes.
	MaxStored = 4 << 20
)

// Signature is a signature as it was found. Either Payload and Sig are set, or Bundle.
type Signature struct {
	Payload []byte `json:"payload,omitempty"` // simple signing, in the variant of cosign
	Sig     []byte `json:"sig,omitempty"`
	Bundle  []byte `json:"bundle,omitempty"` // sigstore's, as JSON
}

// stored is the document of an image's signatures.
type stored struct {
	Version    int         `json:"version"`
	Signatures []Signature `json:"signatures"`
}

// Pack makes one document of signatures, for a store to keep beside the image. What is beyond [MaxStored] is left out.
func Pack(list []Signature) ([]byte, error) {
	for {
		b, err := json.Marshal(stored{1, list})
		if err != nil || len(b) <= MaxStored {
			return b, err
		}
		list = list[:len(list)-1]
	}
}

// Unpack reads what [Pack] made.
func Unpack(b []byte) ([]Signature, error) {
	var s stored
	if len(b) > MaxStored || json.Unmarshal(b, &s) != nil || s.Version != 1 {
		return nil, api.Errorf(api.Corrupt, "the stored signatures cannot be read: pull the image again")
	}
	return s.Signatures[:min(len(s.Signatures), maxSignatures)], nil
}

// claim is what a signature says, once it was verified.
type claim struct {
	digest digest.Digest
	name   string // empty: it names none
}

// errKey says that a signature is sound in form, but of no key that the policy names.
var errKey = errors.New("it is of none of the keys that the policy names")

// open verifies a signature with any of keys and returns what it says. Nothing in it is believed before.
func (s Signature) open(keys []crypto.PublicKey) (claim, error) {
	if s.Bundle != nil {
		return openBundle(s.Bundle, keys)
	}
	if !slices.ContainsFunc(keys, func(k crypto.PublicKey) bool { return verifies(k, s.Payload, s.Sig) }) {
		return claim{}, errKey
	}
	return parsePayload(s.Payload)
}

// parsePayload reads a payload of cosign's simple signing. All of critical must be understood; nothing rests on what is optional.
func parsePayload(b []byte) (claim, error) {
	var critical, optional, id, image json.RawMessage
	var name, kind, manifest string
	read := func(in json.RawMessage, needed int, fields map[string]any) error {
		has, err := object(in, fields)
		if err == nil && len(has) < needed {
			err = errors.New("a key is missing")
		}
		return err
	}
	err := read(b, 1, map[string]any{"critical": &critical, "optional": &optional})
	if err == nil {
		err = read(critical, 3, map[string]any{"identity": &id, "image": &image, "type": &kind})
	}
	if err == nil {
		err = read(id, 1, map[string]any{"docker-reference": &name})
	}
	if err == nil {
		err = read(image, 1, map[string]any{"docker-manifest-digest": &manifest})
	}
	if err == nil && kind != "cosign container image signature" {
		err = fmt.Errorf("type %q is no signature of an image", kind)
	}
	if err == nil {
		err = digest.Digest(manifest).Validate()
	}
	if err != nil {
		return claim{}, fmt.Errorf("payload: %w", err)
	}
	return claim{digest: digest.Digest(manifest), name: name}, nil
}

// What a signature of cosign 3 is: an in-toto statement in a DSSE envelope in a bundle.
const (
	bundlePrefix  = "application/vnd.dev.sigstore.bundle"
	intotoPayload = "application/vnd.in-toto+json"
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
	// nameAnnotation, signed with the statement (cosign sign -a), gives it the name that cosign 3 leaves out.
	nameAnnotation = "org.opencontainers.image.ref.name"
)

// bundle is the part of sigstore's bundle, version 0.1 to 0.3, that a signature with a plain key needs.
type bundle struct {
	MediaType string `json:"mediaType"`
	Envelope  *struct {
		Payload     []byte `json:"payload"`
		PayloadType string `json:"payloadType"`
		Signatures  []struct {
			Sig []byte `json:"sig"`
		} `json:"signatures"`
	} `json:"dsseEnvelope"`
	Message *struct {
		Digest struct {
			Algorithm string `json:"algorithm"`
			Digest    []byte `json:"digest"`
		} `json:"messageDigest"`
		Signature []byte `json:"signature"`
	} `json:"messageSignature"`
}

// openBundle verifies a bundle. Log entries, time stamps and certificates in it are left alone: with a plain key nothing rests on them.
func openBundle(b []byte, keys []crypto.PublicKey) (claim, error) {
	var v bundle
	if err := json.Unmarshal(b, &v); err != nil {
		return claim{}, fmt.Errorf("bundle: %w", err)
	}
	switch {
	case !strings.HasPrefix(v.MediaType, bundlePrefix):
		return claim{}, fmt.Errorf("bundle: media type %q", v.MediaType)
	case (v.Envelope != nil) == (v.Message != nil):
		return claim{}, errors.New("bundle: it must have either an envelope or a message signature")
	case v.Message != nil:
		return openMessage(v, keys)
	case v.Envelope.PayloadType != intotoPayload:
		return claim{}, fmt.Errorf("bundle: a payload of type %q, not %s", v.Envelope.PayloadType, intotoPayload)
	case len(v.Envelope.Signatures) != 1:
		return claim{}, fmt.Errorf("bundle: %d signatures in its envelope, want one", len(v.Envelope.Signatures))
	}
	// DSSE's pre-authentication encoding: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
	message := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(intotoPayload), intotoPayload, len(v.Envelope.Payload), v.Envelope.Payload)
	if !slices.ContainsFunc(keys, func(k crypto.PublicKey) bool { return verifies(k, message, v.Envelope.Signatures[0].Sig) }) {
		return claim{}, errKey
	}
	return parseStatement(v.Envelope.Payload)
}

// openMessage verifies a signature over the manifest itself.
func openMessage(v bundle, keys []crypto.PublicKey) (claim, error) {
	d := v.Message.Digest
	if d.Algorithm != "SHA2_256" || len(d.Digest) != 32 {
		return claim{}, fmt.Errorf("bundle: a message digest of %q is not supported, only SHA2_256", d.Algorithm)
	}
	if !slices.ContainsFunc(keys, func(k crypto.PublicKey) bool { return verifiesSum(k, d.Digest, v.Message.Signature) }) {
		return claim{}, errKey
	}
	return claim{digest: digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(d.Digest))}, nil
}

// parseStatement reads a verified in-toto statement. An attestation, whatever it says of the image, is not its signature.
func parseStatement(b []byte) (claim, error) {
	var v struct {
		Type    string `json:"_type"`
		Subject []struct {
			Digest      map[string]string `json:"digest"`
			Annotations map[string]any    `json:"annotations"`
		} `json:"subject"`
		PredicateType string `json:"predicateType"`
	}
	if err := each(b, func(string, json.RawMessage) error { return nil }); err != nil {
		return claim{}, fmt.Errorf("statement: %w", err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return claim{}, fmt.Errorf("statement: %w", err)
	}
	switch {
	case v.Type != "https://in-toto.io/Statement/v1" && v.Type != "https://in-toto.io/Statement/v0.1":
		return claim{}, fmt.Errorf("statement: type %q", v.Type)
	case v.PredicateType != signPredicate:
		return claim{}, fmt.Errorf("statement: it attests %q, which is not a signature of the image", v.PredicateType)
	case len(v.Subject) != 1 || len(v.Subject[0].Digest) != 1:
		return claim{}, errors.New("statement: it must be about one image with one digest")
	}
	c := claim{}
	for algorithm, value := range v.Subject[0].Digest {
		c.digest = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), value)
	}
	if err := c.digest.Validate(); err != nil {
		return claim{}, fmt.Errorf("statement: digest %q: %w", c.digest, err)
	}
	c.name, _ = v.Subject[0].Annotations[nameAnnotation].(string)
	return c, nil
}

// decodeSig reads the annotation that carries a signature.
func decodeSig(s string) ([]byte, error) {
	if len(s) > maxPayload {
		return nil, errors.New("the signature is too long")
	}
	return base64.StdEncoding.DecodeString(s)
}
