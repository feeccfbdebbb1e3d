package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
)

// lease is the right of one process to be the only one of its kind on a database. It is a write lock on a small
// database of its own, held until released: the operating system takes it back from a process that is gone, and those
// who are refused can still read in it who has it.
type lease struct {
	db   *sql.DB
	conn *sql.Conn
}

func takeLease(ctx context.Context, path string) (_ *lease, err error) {
	name := path + "-owner"
	if err := create(name); err != nil {
		return nil, err
	}
	l := &lease{}
	if l.db, err = sql.Open("sqlite", "file:"+urlPath(name)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = l.release()
		}
	}()
	if l.conn, err = l.db.Conn(ctx); err != nil {
		return nil, err
	}
	run := func(queries ...string) error {
		for _, q := range queries {
			if _, err := l.conn.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		return nil
	}
	err = run("BEGIN IMMEDIATE", "CREATE TABLE IF NOT EXISTS owner (pid INTEGER NOT NULL)", "DELETE FROM owner")
	if err == nil {
		_, err = l.conn.ExecContext(ctx, "INSERT INTO owner VALUES (?)", os.Getpid())
	}
	if err == nil {
		// Committing lets go of the lock for a moment; whoever takes it then is the owner, and this one is refused.
		err = run("COMMIT", "BEGIN IMMEDIATE")
	}
	if err == nil || !busy(err) {
		return l, err
	}
	inUse := &InUseError{Path: path}
	if err := l.conn.QueryRowContext(ctx, "SELECT pid FROM owner").Scan(&inUse.PID); err != nil {
		inUse.PID = 0
	}
	return nil, inUse
}

// Alone runs something while nobody else on the database runs something of the same name, in this process or another. It
// reports false, and runs nothing, if somebody does. A name is part of a file's.
func (s *Store) Alone(ctx context.Context, name string, run func() error) (ran bool, err error) {
	l, err := takeLease(ctx, s.path+"-"+name)
	if taken := (*InUseError)(nil); errors.As(err, &taken) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("be alone with %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, l.release()) }()
	return true, run()
}

func (l *lease) release() error {
	var errs []error
	if l.conn != nil {
		errs = append(errs, l.conn.Close())
	}
	return errors.Join(append(errs, l.db.Close())...)
}
