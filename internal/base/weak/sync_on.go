//go:build brig_weaken

package weak

// Sync is explained in sync_off.go.
var Sync = has("sync")
