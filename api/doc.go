// Package api holds Brig's nouns: the values that pass between its rooms and through its doors.
//
// It has no behaviour and imports nothing of Brig's, so every package may use it. Image, store, network and runtime do not know
// one another; what one hands to the next is a type of this package: the network yields a [Link], a snapshot yields a []Mount, the
// runtime takes both and yields an [Exit].
//
// Errors have a kind that knows no protocol ([Kind]); each door translates it once, the command line to an exit code.
package api
