package store

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/farthing402/farthing/store/storetest"
)

// database is where a test keeps a store: each kind that the package knows.
type database struct {
	kind string
	name func(testing.TB) string // of a new one
}

var (
	sqliteFile     = database{"sqlite", func(t testing.TB) string { return filepath.Join(t.TempDir(), "book.db") }}
	postgresServer = database{"postgres", storetest.Database}
)

// onEach runs a test on every kind of database.
func onEach(t *testing.T, test func(*testing.T, database)) {
	t.Parallel()
	for _, db := range []database{sqliteFile, postgresServer} {
		t.Run(db.kind, func(t *testing.T) {
			t.Parallel()
			test(t, db)
		})
	}
}

// sql turns literals as SQLite writes them into the database's own.
func (db database) sql(query string) string {
	if db.kind == "postgres" {
		query = strings.NewReplacer("x'00'", `'\x00'::bytea`, "zeroblob(32)", "decode(repeat('00', 32), 'hex')").Replace(query)
	}
	return query
}

// fresh opens a new store that ends with the test.
func (db database) fresh(t testing.TB, opts ...Option) *Store {
	t.Helper()
	return reopen(t, db.name(t), opts...)
}
