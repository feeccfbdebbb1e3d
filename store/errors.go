package store

import (
	"errors"
	"fmt"
)

// Errors of a [Store].
var (
	// ErrClosed: the store was closed before the call.
	ErrClosed = errors.New("store is closed")
	// ErrCorrupt: a row holds what this program would not have written.
	ErrCorrupt = errors.New("row is corrupt")
	// ErrLost: the database could not be reached for so long that another process may do now what this one did alone.
	ErrLost = errors.New("the right to be the only one was lost, another process may have it")
)

// VersionError says that the database was written by a newer program.
type VersionError struct{ At, Known int }

// Error implements error.
func (e *VersionError) Error() string {
	return fmt.Sprintf("database schema is at %d, this program knows %d", e.At, e.Known)
}

// Hint says what to do about it.
func (e *VersionError) Hint() string {
	return "run the newer farthing that wrote it, or restore a backup"
}

// InUseError says that another store was opened with [Exclusive].
type InUseError struct {
	Path string // or URL
	PID  int    // of the process that has it; 0 if it has not said yet
	Host string // on which that runs, if the database is on a server
}

// Error implements error.
func (e *InUseError) Error() string {
	by := "another process"
	if e.PID != 0 {
		by = fmt.Sprintf("process %d", e.PID)
	}
	if e.Host != "" {
		by += " on " + e.Host
	}
	return fmt.Sprintf("database %s is in use by %s", e.Path, by)
}

// Hint says what to do about it.
func (e *InUseError) Hint() string {
	return "stop that process first, or give this one its own database"
}

// queryError is the error of a database that did not answer, as against an answer that makes no sense.
type queryError struct{ error }

func (e queryError) Unwrap() error { return e.error }

// corrupt wraps what went wrong with the row of a table under a key: [ErrCorrupt], unless it could not be read at all.
func corrupt(table string, key any, err error) error {
	if errors.As(err, new(queryError)) {
		return fmt.Errorf("table %s, key %v: %w", table, key, err)
	}
	return fmt.Errorf("table %s, key %v: %w: %w", table, key, ErrCorrupt, err)
}
