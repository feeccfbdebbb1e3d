package store

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

//go:embed migrations
var migrationFiles embed.FS

// migration is one step of the schema.
type migration struct {
	version int
	name    string
	sql     string
}

// migrations returns the steps in a folder, whose files are named 0001_what.sql and on without a gap.
func migrations(files fs.FS, folder string) ([]migration, error) {
	entries, err := fs.ReadDir(files, folder)
	if err != nil {
		return nil, err
	}
	var all []migration
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("migration %s: name begins with no number", e.Name())
		}
		text, err := fs.ReadFile(files, folder+"/"+e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version, strings.TrimSuffix(e.Name(), ".sql"), string(text)})
	}
	slices.SortFunc(all, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
	for i, m := range all {
		if m.version != i+1 {
			return nil, fmt.Errorf("migration %s: want number %d", m.name, i+1)
		}
	}
	return all, nil
}

// migrate brings the schema up to date.
func (s *Store) migrate(ctx context.Context) error {
	steps, err := migrations(migrationFiles, "migrations")
	if err != nil {
		return err
	}
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	return apply(ctx, s.dialect, conn, steps)
}

// apply runs the steps that the database has not seen, in one transaction. Of several processes that start at once, one
// does it and the others wait and find it done.
func apply(ctx context.Context, d *dialect, conn *sql.Conn, steps []migration) (err error) {
	exec := func(query string, args ...any) error {
		_, err := conn.ExecContext(ctx, d.rebind(query), args...)
		return err
	}
	if err := exec(d.beginWrite); err != nil {
		return fmt.Errorf("begin to migrate: %w", err)
	}
	defer func() {
		if err != nil {
			_, undo := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
			err = errors.Join(err, undo)
		}
	}()
	for _, query := range append(d.migrating, "CREATE TABLE IF NOT EXISTS migration (version INTEGER PRIMARY KEY, name TEXT NOT NULL)") {
		if err := exec(query); err != nil {
			return fmt.Errorf("begin to migrate: %w", err)
		}
	}
	var at int
	if err := conn.QueryRowContext(ctx, "SELECT COALESCE(MAX(version), 0) FROM migration").Scan(&at); err != nil {
		return fmt.Errorf("schema version: %w", err)
	}
	if at > len(steps) {
		return &VersionError{At: at, Known: len(steps)}
	}
	for _, m := range steps[at:] {
		if err := exec(d.schema(m.sql)); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
		if err := exec("INSERT INTO migration (version, name) VALUES (?, ?)", m.version, m.name); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	return exec("COMMIT")
}
