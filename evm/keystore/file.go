package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// fileBytesMax bounds what is read: a key file has half a kilobyte, a passphrase less.
const fileBytesMax = 64 << 10

// ReadPassphrase reads a passphrase from a file that only its owner may read, without the line's end if there is one.
// An empty passphrase is refused: a file that is meant to hold one and does not is a mistake.
func ReadPassphrase(path string) ([]byte, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("passphrase file %w", err)
	}
	if line, ok := bytes.CutSuffix(text, []byte("\n")); ok {
		text = bytes.TrimSuffix(line, []byte("\r"))
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("passphrase file %s: empty: %w", path, ErrFile)
	}
	return text, nil
}

// readPrivate reads a regular file that no one but its owner may read or write. Its errors begin with the path.
func readPrivate(path string) ([]byte, error) {
	// Opening a pipe would wait for a writer, so it is looked at first; what is opened is what is judged.
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%s: %w", path, bare(err))
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file: %w", path, ErrFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, bare(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, bare(err))
	}
	// Windows has no such bits; there the folder's access list protects.
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s: mode is %04o, only the owner may have access (chmod 600 %s): %w", path, mode, path, ErrMode)
	}
	text, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, bare(err))
	}
	if len(text) > fileBytesMax {
		return nil, fmt.Errorf("%s: more than %d bytes: %w", path, fileBytesMax, ErrFile)
	}
	return text, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeNew makes a file with all of text, or none. After it returns nil the file outlives a power cut.
func writeNew(path string, text []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("key file %s: %w", path, bare(err))
		}
	}()
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err == nil {
		err = temp.Chmod(0o600) // a strange umask may have taken the owner's own rights
	}
	if err == nil {
		err = temp.Sync()
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := publish(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// publish gives a finished file its name unless the name is taken. A rename would replace what is there; a link does
// not. Where the file system has no links, two processes that create one key at the same moment could still collide.
func publish(temp, path string) error {
	err := os.Link(temp, path)
	switch {
	case err == nil:
		return nil
	case exists(path):
		return ErrExists
	}
	return os.Rename(temp, path)
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // cannot, and needs not
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// bare takes the path out of an error of package os; every message here names the path itself, once.
func bare(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	var linkErr *os.LinkError
	if errors.As(err, &linkErr) {
		return linkErr.Err
	}
	return err
}
