package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// folder is where this user's keys, books and journals live: FARTHING_HOME, or a folder of its own among the user's
// application data. Everything in it is for its owner only.
func (p *program) folder() (string, error) {
	dir, ok := p.Env("FARTHING_HOME")
	if !ok || dir == "" {
		base, ok := p.Env("XDG_DATA_HOME")
		if !ok || base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fail("config_invalid", "no folder for data: %v", err).hint("set FARTHING_HOME")
			}
			base = filepath.Join(home, ".local", "share")
		}
		dir = filepath.Join(base, "farthing")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fail("config_invalid", "%v", err).hint("set FARTHING_HOME to a folder that can be written")
	}
	return dir, nil
}

// inFolder returns a path below the folder whose parent exists.
func (p *program) inFolder(elem ...string) (string, error) {
	dir, err := p.folder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(append([]string{dir}, elem...)...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, nil
}

// writeFile replaces a file as a whole: after a crash the old content or the new one is there, never a part.
func writeFile(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, werr := tmp.Write(data)
	err = errors.Join(werr, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
