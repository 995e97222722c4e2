// Package weak names the defences that test/escape takes away one at a time, to show that each of its attacks works where the defence is missing.
//
// In every normal build all of them are the constant false, so the compiler removes the weak branches and nothing of this is in the program. Only
// a build with the tag brig_weaken has variables instead, which $BRIG_WEAKEN, a list of their names, sets. Such a program is a test's: no
// target of the Makefile installs it. One more, Sync, is test/fault/powercut's.
package weak
