package overlay

import (
	"testing"

	"brig/internal/base/rootless"
)

func TestNames(t *testing.T) {
	if Opaque() != "trusted.overlay.opaque" || Options() != nil || Reserved("user.overlay.opaque") || !Reserved("trusted.overlay.redirect") || Reserved("user.x") {
		t.Error("root's")
	}
	t.Setenv(rootless.Env, "1000:7")
	if Opaque() != "user.overlay.opaque" || len(Options()) != 1 || !Reserved("user.overlay.opaque") || !Reserved("trusted.overlay.redirect") || Reserved("user.x") {
		t.Error("a user's")
	}
}
