// Package oci turns an OCI bundle into a process behind Linux namespaces. It is the floor that the shim, the OCI runtime command line and exec
// stand on, and it knows nothing of images, networks or engines.
//
// # How a container is built
//
// A goroutine locks its thread and lets that thread alone leave the host: unshare(2) gives it new mount, UTS, IPC and PID namespaces (the
// PID namespace is its children's), and it joins the network namespace it was given. On that thread, in ordinary Go, the root file system is
// mounted and furnished and pivoted into; every mount is made detached and attached to an open descriptor that was resolved with the
// container's root as root ([brig/internal/kernel/mount]). Nothing is ever mounted in the host's namespace, so nothing can be left there.
//
// One fork (clone3, into the cgroup where that is version 2) makes the child, which has no Go runtime: it makes only raw system calls on
// arguments prepared before ([child]). It is born before the mounts, since only it can make the procfs of its PID namespace, which it sends to its parent.
// Told that the mounts are there, it joins version 1 cgroups itself (a task that moves itself need not wait for a grace period, which takes 5 to 16 ms),
// takes its limits, terminal and session, reports ready, and waits. This is a created container. One word starts it: it installs seccomp,
// drops capabilities and user, and executes. If its parent dies while it waits, it ends, unless it was told to wait at a gate: a socket in the
// container's folder, at which any later process may start it.
//
// A container with a user namespace is built from inside of it, by the runtime executed anew ([Stage]).
//
// The builder's thread is thrown away afterwards, or comes back (Request.Here); the process that built the container is as it was.
//
// # Exec
//
// An exec is the same child on a thread that joined the container's namespaces by pidfd.
package oci
