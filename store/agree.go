package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Served reports whether a database of this name is on a server, where several processes can share it, and not in a file.
func Served(name string) bool { return isURL(name) }

// Served reports whether the store's database is on a server; see [Served].
func (s *Store) Served() bool { return s.path == "" }

// Name returns the database's path, or its URL without a password.
func (s *Store) Name() string { return s.name }

// DifferError says that a database belongs to something else than the process that opened it.
type DifferError struct {
	Database            string
	Fact, There, Wanted string
}

// Error implements error.
func (e *DifferError) Error() string {
	return fmt.Sprintf("the database %s is of %s %s, not %s", e.Database, e.Fact, e.There, e.Wanted)
}

// Agree writes down what everybody who uses the database must have in common, or compares it with what is written there:
// the first fact that is another is a [*DifferError].
func (s *Store) Agree(ctx context.Context, facts map[string]string) error {
	return s.write(ctx, func(tx *session) error {
		for _, fact := range slices.Sorted(maps.Keys(facts)) {
			if _, err := tx.exec("INSERT INTO agreed (fact, value) VALUES (?, ?) ON CONFLICT (fact) DO NOTHING", fact, facts[fact]); err != nil {
				return fmt.Errorf("agree on %s: %w", fact, err)
			}
			var there string
			if _, err := tx.one("SELECT value FROM agreed WHERE fact = ?", []any{fact}, &there); err != nil {
				return fmt.Errorf("agree on %s: %w", fact, err)
			}
			if there != facts[fact] {
				return &DifferError{s.name, fact, there, facts[fact]}
			}
		}
		return nil
	})
}
