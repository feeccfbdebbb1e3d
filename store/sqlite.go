package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Memory for pages in a connection, and how much is written ahead before it is copied into the database. Checkpointing
// rarely pays because keys are hashes: the longer the wait, the more rows share a page that is copied.
const (
	writerCacheKiB      = 64 << 10
	readerCacheKiB      = 16 << 10
	checkpointPages     = 4000 // of 4 KiB
	busyTimeout         = 10 * time.Second
	journalModeAttempts = 200
)

var sqliteDialect = dialect{
	name:       "sqlite",
	rebind:     func(query string) string { return query },
	words:      []replacement{{regexp.MustCompile(`\bAMOUNT\b`), "TEXT"}},
	beginWrite: "BEGIN IMMEDIATE",
	beginRead:  "BEGIN",
	duplicate: func(err error) bool {
		var e *sqlite.Error
		return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
	},
	again: func(error) bool { return false }, // there is one writer at a time
}

// openFile makes s a store on a file: one writer, and readers beside it.
func (s *Store) openFile(ctx context.Context, o options) (err error) {
	if s.path, err = filepath.Abs(s.name); err != nil {
		return err
	}
	s.name, s.dialect = s.path, &sqliteDialect
	if err := create(s.path); err != nil {
		return err
	}
	if o.exclusive {
		if s.owner, err = takeFile(ctx, s.path, "owner"); err != nil {
			return err
		}
	}
	if s.writes, err = sql.Open("sqlite", sqliteSource(s.path, true)); err != nil {
		return err
	}
	if s.reads, err = sql.Open("sqlite", sqliteSource(s.path, false)); err != nil {
		return err
	}
	s.writer = &group{open: s.newWriter, commits: &s.commits}
	if err := useWAL(ctx, s.writes); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return syncFolder(s.path)
}

func sqliteSource(path string, write bool) string {
	cache, only := readerCacheKiB, 1
	if write {
		cache, only = writerCacheKiB, 0
	}
	v := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"synchronous(FULL)",
		"foreign_keys(1)",
		"temp_store(MEMORY)",
		fmt.Sprintf("cache_size(-%d)", cache),
		fmt.Sprintf("wal_autocheckpoint(%d)", checkpointPages),
		fmt.Sprintf("query_only(%d)", only),
	}}
	return "file:" + urlPath(path) + "?" + v.Encode()
}

// useWAL makes the file write ahead, which it then stays. The change needs the file for itself for a moment and does
// not always wait for that, so it is tried again while another process makes it.
func useWAL(ctx context.Context, db *sql.DB) error {
	var mode string
	var err error
	for range journalModeAttempts {
		if err = db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err == nil && mode == "wal" {
			return nil
		}
		if err != nil && !busy(err) {
			break
		}
		if err := pause(ctx, busyTimeout/journalModeAttempts); err != nil {
			return err
		}
	}
	if err == nil {
		err = fmt.Errorf("journal mode is %s", mode)
	}
	return fmt.Errorf("write ahead: %w", err)
}

func busy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

// creating keeps a second Open in this process away from a file between its creation and the closing of the handle,
// which would take back the locks of whoever has opened it meanwhile (POSIX record locks end with any handle).
var creating sync.Mutex

// create makes an empty file that only its owner can read, since SQLite would leave that to the umask. The files beside
// it inherit the mode.
func create(path string) error {
	creating.Lock()
	defer creating.Unlock()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// syncFolder makes the names of the database's files survive a power cut, as syncing the files does not.
func syncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// urlPath escapes a file's path for a data source name.
func urlPath(path string) string {
	u := url.URL{Path: filepath.ToSlash(path)}
	return u.EscapedPath()
}
