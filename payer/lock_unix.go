//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package payer

import (
	"errors"
	"os"
	"syscall"
)

// lockFile waits for the file's lock, which others hold only while they read and write some lines.
func lockFile(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func unlockFile(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
