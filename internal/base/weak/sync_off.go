//go:build !brig_weaken

package weak

// Sync is what test/fault/powercut takes away, to show that it finds what is missing then.
const Sync = false // what is to survive a power cut is not synced
