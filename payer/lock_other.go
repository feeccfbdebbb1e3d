//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package payer

import (
	"errors"
	"os"
)

// lockFile refuses: without a lock two processes would each spend the whole budget.
func lockFile(*os.File) error { return errors.ErrUnsupported }

func unlockFile(*os.File) {}
