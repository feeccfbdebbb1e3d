package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// dialect is what one database does in its own way. Statements elsewhere are written for all of them, with ? where a
// value goes.
type dialect struct {
	name       string                    // of the folder in migrations
	rebind     func(query string) string // ? to the database's own placeholders
	beginWrite string                    // takes the right to write at once, or waits for it
	beginRead  string                    // fixes the snapshot of what follows
	prepare    func(ctx context.Context, c *sql.Conn) error
	dataSource func(path string, write bool) string
	duplicate  func(error) bool // a unique key was there already
}

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
	beginWrite: "BEGIN IMMEDIATE",
	beginRead:  "BEGIN",
	prepare:    useWAL,
	dataSource: func(path string, write bool) string {
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
	},
	duplicate: func(err error) bool {
		var e *sqlite.Error
		return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
	},
}

// useWAL makes the file write ahead, which it then stays. The change needs the file for itself for a moment and does
// not always wait for that, so it is tried again while another process makes it.
func useWAL(ctx context.Context, c *sql.Conn) error {
	var mode string
	var err error
	for range journalModeAttempts {
		if err = c.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err == nil && mode == "wal" {
			return nil
		}
		if err != nil && !busy(err) {
			break
		}
		pause := time.NewTimer(busyTimeout / journalModeAttempts)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
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
