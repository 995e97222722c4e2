// Package overlay names what overlayfs reads and writes beside files. Root's overlays keep their marks in attributes trusted.overlay.*, which only
// root of the machine may set; those of a normal user, root of a user namespace, in user.overlay.*: the mount option userxattr, since Linux 5.11.
// A whiteout is a character device 0:0 in both, which everybody may make since Linux 5.8.
package overlay

import (
	"strings"

	"brig/internal/base/rootless"
)

const (
	trusted = "trusted.overlay."
	user    = "user.overlay."
)

// Prefix is that of the marks in this Brig's store.
func Prefix() string {
	if rootless.Active() {
		return user
	}
	return trusted
}

// Opaque is the attribute, of value y, of a folder that hides what lower layers have at its place.
func Opaque() string { return Prefix() + "opaque" }

// Metacopy marks a file that has another's content: a lower layer's, or one of a layer of data only, where Redirect says, by a path from that layer's root.
func Metacopy() string { return Prefix() + "metacopy" }

// Redirect is the attribute that says where a file's content is.
func Redirect() string { return Prefix() + "redirect" }

// Reserved reports whether an attribute is not for archives, since it would steer overlayfs to other files: trusted ones nowhere, a user's
// where overlayfs would read them.
func Reserved(name string) bool {
	return strings.HasPrefix(name, trusted) || strings.HasPrefix(name, Prefix())
}

// Options are what a mount needs to find its marks.
func Options() []string {
	if rootless.Active() {
		return []string{"userxattr"}
	}
	return nil
}
