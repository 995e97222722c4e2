package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/base/policyfile"
)

// minRSA is the smallest modulus of an RSA key, in bits: what NIST SP 800-131A allows.
const minRSA = 2048

// parseKey reads a public key: one PEM block, as openssl, cosign and skopeo write it.
func parseKey(b []byte) (crypto.PublicKey, error) {
	if len(b) > maxKey {
		return nil, fmt.Errorf("longer than %d bytes", maxKey)
	}
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, errors.New("not a public key in PEM")
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("something follows the first key: list keys in keyPaths or keyDatas")
	}
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a PEM block of type %q, not a PUBLIC KEY", block.Type)
	}
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if n := k.Curve.Params().BitSize; n < 256 {
			return nil, fmt.Errorf("a curve of %d bits is too small: 256 is the least", n)
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA {
			return nil, fmt.Errorf("an RSA key of %d bits is too small: %d is the least", n, minRSA)
		}
	default:
		return nil, fmt.Errorf("keys of type %T are not supported: use ECDSA, Ed25519 or RSA", key)
	}
	return key, nil
}

// verifies reports whether sig is a signature of key over message, in one of the ways that cosign and skopeo sign with a key of that type.
func verifies(key crypto.PublicKey, message, sig []byte) bool {
	sum256 := sha256.Sum256(message)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(k, sum256[:], sig) {
			return true
		}
		switch k.Curve.Params().BitSize { // newer versions take the hash that goes with the curve
		case 384:
			sum := sha512.Sum384(message)
			return ecdsa.VerifyASN1(k, sum[:], sig)
		case 521:
			sum := sha512.Sum512(message)
			return ecdsa.VerifyASN1(k, sum[:], sig)
		}
	case ed25519.PublicKey:
		if ed25519.Verify(k, message, sig) {
			return true
		}
		sum := sha512.Sum512(message)
		return ed25519.VerifyWithOptions(k, sum[:], sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum256[:], sig) == nil
	}
	return false
}

// verifiesSum is verifies where only the SHA-256 of the message is known.
func verifiesSum(key crypto.PublicKey, sum, sig []byte) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum, sig) == nil
	}
	return false
}

// readFile reads a policy or a key, and the stamp of just what was read. Only a regular file is opened for long: a pipe would never end.
func readFile(path string, limit int64) (b []byte, stamp string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if !info.Mode().IsRegular() {
		return nil, "", fmt.Errorf("%s: not a regular file", path)
	}
	if stamp, err = policyfile.StampOf(f); err != nil {
		return nil, "", err
	}
	b, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: longer than %d bytes", path, limit)
	}
	return b, stamp, err
}
