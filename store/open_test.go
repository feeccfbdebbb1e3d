package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

func TestMigrations(t *testing.T) { onEach(t, testMigrations) }

func testMigrations(t *testing.T, db database) {
	one := &fstest.MapFile{Data: []byte("CREATE TABLE one (a INTEGER); CREATE TABLE uno (a INTEGER)")}
	two := &fstest.MapFile{Data: []byte("ALTER TABLE one ADD COLUMN b INTEGER")}
	bad := &fstest.MapFile{Data: []byte("CREATE TABLE three (a INTEGER); SELECT fnord")}
	for _, tt := range []struct {
		name  string
		files []fstest.MapFS // one after another, on one database
		table string         // that must be there in the end
		err   string
	}{
		{"the first", []fstest.MapFS{{"m/0001_one.sql": one}}, "uno", ""},
		{"none twice", []fstest.MapFS{{"m/0001_one.sql": one}, {"m/0001_one.sql": one}}, "one", ""},
		{"only the new ones", []fstest.MapFS{{"m/0001_one.sql": one}, {"m/0001_one.sql": one, "m/0002_two.sql": two}}, "one", ""},
		{"a newer schema", []fstest.MapFS{{"m/0001_one.sql": one, "m/0002_two.sql": two}, {"m/0001_one.sql": one}}, "one", "database schema is at 2, this program knows 1"},
		{"one that fails halfway", []fstest.MapFS{{"m/0001_one.sql": one}, {"m/0001_one.sql": one, "m/0002_bad.sql": bad}}, "one", "migration 0002_bad"},
		{"a gap", []fstest.MapFS{{"m/0001_one.sql": one, "m/0003_two.sql": two}}, "", "want number 2"},
		{"no number", []fstest.MapFS{{"m/one.sql": one}}, "", "begins with no number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := db.fresh(t)
			conn, err := s.writes.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.ExecContext(t.Context(), "DROP TABLE migration"); err != nil { // an empty database, as far as these go
				t.Fatal(err)
			}
			for _, files := range tt.files {
				var steps []migration
				if steps, err = migrations(files, "m"); err == nil {
					err = apply(t.Context(), s.dialect, conn, steps)
				}
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%v, want %q", err, tt.err)
			}
			if tt.table != "" {
				if _, err := conn.ExecContext(t.Context(), "INSERT INTO "+tt.table+" (a) VALUES (1)"); err != nil {
					t.Error(err)
				}
			}
			if _, err := conn.ExecContext(t.Context(), "SELECT * FROM three"); err == nil {
				t.Error("half a migration is there")
			}
		})
	}
}

func TestASchemaNewerThanTheProgramIsRefused(t *testing.T) {
	onEach(t, testASchemaNewerThanTheProgramIsRefused)
}

func testASchemaNewerThanTheProgramIsRefused(t *testing.T, db database) {
	path := db.name(t)
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write(t.Context(), func(s *session) error { return s.control("INSERT INTO migration VALUES (99, 'from the future')") }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path)
	var version *VersionError
	if !errors.As(err, &version) || version.At != 99 || version.Known >= 99 || version.Hint() == "" {
		t.Fatalf("%v, want a version error", err)
	}
}

func TestOpenMakesAFileForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "odd ?name#50%.db")
	s := reopen(t, path, Exclusive())
	letters(t, s)
	var found []string
	if err := filepath.WalkDir(filepath.Dir(path), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o", d.Name(), mode)
		}
		found = append(found, strings.TrimPrefix(d.Name(), filepath.Base(path)))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "-wal", "-owner"} {
		if !slices.Contains(found, name) {
			t.Errorf("no file %q among %q", name, found)
		}
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "no", "such", "folder.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want %v", err, os.ErrNotExist)
	}
}

func TestManyOpenANewFileAtOnce(t *testing.T) { onEach(t, testManyOpenANewFileAtOnce) }

func testManyOpenANewFileAtOnce(t *testing.T, db database) {
	path := db.name(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Purchases().Secret(t.Context()); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestOnlyOneIsExclusive(t *testing.T) { onEach(t, testOnlyOneIsExclusive) }

func testOnlyOneIsExclusive(t *testing.T, db database) {
	name := db.name(t)
	owner, err := Open(t.Context(), name, Exclusive())
	if err != nil {
		t.Fatal(err)
	}
	reopen(t, name) // others may still come
	_, err = Open(t.Context(), name, Exclusive())
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() || inUse.Path != owner.name || inUse.Hint() == "" {
		t.Errorf("%v, want that process %d has it", err, os.Getpid())
	}
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	reopen(t, name, Exclusive())
}

// The connections must be what the package promises, whatever the driver makes of its parameters.
func TestConnectionsSyncAtEveryCommit(t *testing.T) { onEach(t, testConnectionsSyncAtEveryCommit) }

func testConnectionsSyncAtEveryCommit(t *testing.T, db database) {
	s := db.fresh(t)
	settings := map[string]string{"PRAGMA journal_mode": "wal", "PRAGMA synchronous": "2", "PRAGMA foreign_keys": "1", "PRAGMA busy_timeout": "10000"}
	if db.kind == "postgres" {
		settings = map[string]string{"SHOW synchronous_commit": "on", "SHOW lock_timeout": "10s", "SHOW idle_in_transaction_session_timeout": "30s"}
	}
	check := func(s *session) error {
		for query, want := range settings {
			var got string
			if _, err := s.one(query, nil, &got); err != nil || got != want {
				t.Errorf("%s is %s, %v, want %s", query, got, err, want)
			}
		}
		return nil
	}
	if err := errors.Join(s.write(context.Background(), check), s.read(context.Background(), check)); err != nil {
		t.Fatal(err)
	}
}
