package main

import "brig/test/machine"

// imageName is the image that every engine runs: busybox from Debian's busybox-static.
const imageName = "localhost/bench:latest"

// prepare makes the root file system and the image that all engines share.
func (b *bench) prepare() (err error) {
	b.rootfs, b.archive, err = machine.Busybox(b.dir, imageName)
	return err
}
