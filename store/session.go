package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// session is one connection with its prepared statements. One goroutine uses it at a time.
//
// Statements run without the callers' contexts: cancelling one statement would end the transaction that neighbours
// share, and the driver starts a goroutine for each statement that can be cancelled. Whoever reads many rows asks its
// context between pages instead.
type session struct {
	dialect  *dialect
	writes   bool
	conn     *sql.Conn
	prepared map[string]*sql.Stmt
	failed   error // of the first statement of the transaction that failed
	pending  []pending
}

func newSession(d *dialect, db *sql.DB, writes bool) (*session, error) {
	conn, err := db.Conn(context.Background())
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &session{dialect: d, writes: writes, conn: conn, prepared: make(map[string]*sql.Stmt)}, nil
}

// begin begins a transaction.
func (s *session) begin() error {
	s.failed, s.pending = nil, nil
	if s.writes {
		return s.control(s.dialect.beginWrite)
	}
	return s.control(s.dialect.beginRead)
}

// fail remembers that a statement failed, which ends the transaction in some databases, and returns the error.
func (s *session) fail(err error) error {
	if s.failed == nil {
		s.failed = err
	}
	return err
}

// again says whether a transaction that ended in err may be run once more: others were in its way, and it wrote nothing. A
// key that was there already is one that was not when it was looked for.
func (s *session) again(err error) bool {
	return s.dialect.again(err) || s.failed != nil && (s.dialect.again(s.failed) || s.dialect.duplicate(s.failed))
}

// close ends the connection (the pool keeps none that is idle), and undoes whatever transaction is open on it.
func (s *session) close() error {
	var errs []error
	for _, stmt := range s.prepared {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, s.conn.Close())...)
}

func (s *session) statement(query string) (*sql.Stmt, error) {
	if stmt, ok := s.prepared[query]; ok {
		return stmt, nil
	}
	stmt, err := s.conn.PrepareContext(context.Background(), s.dialect.rebind(query))
	if err != nil {
		return nil, err
	}
	s.prepared[query] = stmt
	return stmt, nil
}

// control runs a statement of the transaction itself.
func (s *session) control(query string) error {
	if s.dialect.locks { // PostgreSQL prepares nothing in a transaction that has failed
		_, err := s.conn.ExecContext(context.Background(), query)
		return err
	}
	_, err := s.exec(query)
	return err
}

// lock keeps every other write that locks the same name waiting until the transaction ends. Where there is one writer
// at a time it does nothing.
func (s *session) lock(name string) error {
	if !s.dialect.locks || !s.writes {
		return nil
	}
	_, err := s.one("SELECT 1 FROM (SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ?, 0))) l", []any{"/" + name}, new(int))
	return err
}

// held ends the query of rows that this transaction decides on and may change: nobody else changes or decides on them
// until it ends.
func (s *session) held() string {
	if s.dialect.locks && s.writes {
		return " FOR NO KEY UPDATE"
	}
	return ""
}

// heldOf is held for rows of one table of a join.
func (s *session) heldOf(table string) string {
	if lock := s.held(); lock != "" {
		return lock + " OF " + table
	}
	return ""
}

// kept ends the query of rows that this transaction decides on and does not change: nobody changes them until it ends.
func (s *session) kept() string {
	if s.dialect.locks && s.writes {
		return " FOR SHARE"
	}
	return ""
}

// exec runs a statement and returns how many rows it changed.
func (s *session) exec(query string, args ...any) (int64, error) {
	if err := s.drain(); err != nil {
		return 0, err
	}
	stmt, err := s.statement(query)
	if err != nil {
		return 0, s.fail(err)
	}
	result, err := stmt.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, s.fail(err)
	}
	return result.RowsAffected()
}

// one scans the row that a query returns, and reports whether there is one. An error other than that of scanning is a
// [queryError].
func (s *session) one(query string, args []any, dest ...any) (found bool, err error) {
	err = s.each(query, args, func(rows *sql.Rows) error {
		found = true
		return rows.Scan(dest...)
	})
	return found, err
}

// each calls scan for every row that a query returns. No other statement may run until it is over: not every database
// can have two on one connection. An error other than scan's is a [queryError].
func (s *session) each(query string, args []any, scan func(*sql.Rows) error) error {
	if err := s.drain(); err != nil {
		return err
	}
	stmt, err := s.statement(query)
	if err != nil {
		return queryError{s.fail(err)}
	}
	rows, err := stmt.QueryContext(context.Background(), args...)
	if err != nil {
		return queryError{s.fail(err)}
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return queryError{s.fail(err)}
	}
	return nil
}

// first returns the first of the rows that a query found, and whether there is one.
func first[T any](all []T, err error) (one T, found bool, _ error) {
	if err != nil || len(all) == 0 {
		return one, false, err
	}
	return all[0], true, nil
}
