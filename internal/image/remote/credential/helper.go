package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

const (
	helperPrefix = "docker-credential-"
	maxAnswer    = 1 << 20 // bytes of a helper's answer
	// tokenUser is the user name under which a helper keeps an identity token.
	tokenUser = "<token>"
)

// The words of a helper that has nothing: docker-credential-helpers, credentials/error.go.
var notFound = [...]string{"credentials not found in native keychain", "no credentials server URL", "no credentials username"}

// answer is what a helper gets and gives.
type answer struct {
	ServerURL, Username, Secret string
}

func runGet(ctx context.Context, name, server string) (Credential, error) {
	out, err := runHelper(ctx, name, "get", []byte(server))
	if errors.Is(err, errNothing) {
		return Credential{}, nil
	}
	if err != nil {
		return Credential{}, err
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		return Credential{}, fmt.Errorf("%s%s get: its answer: %w", helperPrefix, name, err)
	}
	if a.Username == tokenUser {
		return Credential{IdentityToken: a.Secret}, nil
	}
	return Credential{Username: a.Username, Password: a.Secret}, nil
}

func runStore(ctx context.Context, name, server string, c Credential) error {
	a := answer{ServerURL: server, Username: c.Username, Secret: c.Password}
	if c.IdentityToken != "" {
		a.Username, a.Secret = tokenUser, c.IdentityToken
	}
	in, err := json.Marshal(a)
	if err != nil {
		return err
	}
	_, err = runHelper(ctx, name, "store", in)
	return err
}

// runErase reports whether there was something to erase.
func runErase(ctx context.Context, name, server string) (bool, error) {
	_, err := runHelper(ctx, name, "erase", []byte(server))
	if errors.Is(err, errNothing) {
		return false, nil
	}
	return err == nil, err
}

var errNothing = errors.New("the helper has nothing")

// runHelper starts a helper. It may ask the user something in its own way, so that only ctx limits its time.
func runHelper(ctx context.Context, name, verb string, in []byte) ([]byte, error) {
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("%q is no name of a credential helper", name)
	}
	cmd := exec.CommandContext(ctx, helperPrefix+name, verb)
	out, errs := &bounded{max: maxAnswer}, &bounded{max: 4096}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), out, errs
	cmd.WaitDelay = time.Second // for what it left behind with our pipes
	err := cmd.Run()
	switch {
	case err == nil && out.over:
		return nil, fmt.Errorf("%s%s %s: its answer is longer than %d bytes", helperPrefix, name, verb, maxAnswer)
	case err == nil:
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("credential helper %s%s is not installed: install it, or take it out of the file", helperPrefix, name)
	}
	words := strings.TrimSpace(out.String())
	for _, w := range notFound {
		if strings.Contains(words, w) {
			return nil, errNothing
		}
	}
	if words == "" {
		words = strings.TrimSpace(errs.String())
	}
	return nil, fmt.Errorf("%s%s %s: %w: %.300q", helperPrefix, name, verb, err, words)
}

// bounded keeps the first max bytes.
type bounded struct {
	bytes.Buffer
	max  int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.Len(); room < len(p) {
		b.over = true
		b.Buffer.Write(p[:room])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
