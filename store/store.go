package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/purchase"
)

// DefaultAnswerBytesMax is how large a stored answer's body may be: what a paid API usually returns fits, a download
// does not, and a thousand of the largest are a gigabyte.
const DefaultAnswerBytesMax = 1 << 20

// readersMax is how many reads run at once; more than this many cores are not kept busy by one file.
const readersMax = 8

// Store is an open database. Make one with [Open].
type Store struct {
	path           string
	dialect        *dialect
	answerBytesMax int

	writer  group
	reading chan struct{} // holds one element for each read that runs
	mu      sync.Mutex
	idle    []*session // guarded by mu; readers, the one used last is used next, since its cache is warm
	reads   *sql.DB
	writes  *sql.DB
	owner   *lease // nil without Exclusive

	closing sync.Once
	closed  chan struct{}
}

type options struct {
	exclusive      bool
	answerBytesMax int
}

// Option changes how [Open] opens a database.
type Option func(*options)

// Exclusive lets nobody else open the same database with this option until the store is closed or its process is gone,
// however it ended. Stores without the option come and go as they like.
func Exclusive() Option { return func(o *options) { o.exclusive = true } }

// AnswerBytesMax says how large the body of a stored answer may be. Of a larger one only status and header are kept.
func AnswerBytesMax(n int) Option { return func(o *options) { o.answerBytesMax = n } }

// Open opens the database in the file at path, makes the file (for its owner only) if there is none, and brings its
// schema up to date. It fails with a [*VersionError] if a newer program has written it, and with an [*InUseError] if it
// is to be [Exclusive] and is not. Cancelling ctx stops opening only.
func Open(ctx context.Context, path string, opts ...Option) (*Store, error) {
	o := options{answerBytesMax: DefaultAnswerBytesMax}
	for _, opt := range opts {
		opt(&o)
	}
	s, err := open(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string, o options) (_ *Store, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	s := &Store{path: path, dialect: &sqliteDialect, answerBytesMax: o.answerBytesMax,
		closed: make(chan struct{}), reading: make(chan struct{}, readersMax)}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if o.exclusive {
		if s.owner, err = takeLease(ctx, path); err != nil {
			return nil, err
		}
	}
	if s.writes, err = sql.Open("sqlite", s.dialect.dataSource(path, true)); err != nil {
		return nil, err
	}
	if s.reads, err = sql.Open("sqlite", s.dialect.dataSource(path, false)); err != nil {
		return nil, err
	}
	for _, db := range []*sql.DB{s.writes, s.reads} {
		db.SetMaxIdleConns(-1) // sessions keep the connections
	}
	s.writer.open = func() (*session, error) { return newSession(s.dialect, s.writes) }
	if err := s.migrate(ctx); err != nil {
		return nil, err
	}
	return s, syncFolder(path)
}

// Close ends the store after the writes and reads that have begun. Later calls of its books are an [ErrClosed].
func (s *Store) Close() (err error) {
	s.closing.Do(func() {
		close(s.closed)
		err = s.writer.close()
		for range readersMax {
			s.reading <- struct{}{} // until all reads are over
		}
		for _, r := range s.idle {
			err = errors.Join(err, r.close())
		}
		for _, db := range []*sql.DB{s.reads, s.writes} {
			if db != nil {
				err = errors.Join(err, db.Close())
			}
		}
		if s.owner != nil {
			err = errors.Join(err, s.owner.release())
		}
	})
	return err
}

// Clearing returns the clearing house's view.
func (s *Store) Clearing() clearing.Book { return book{s} }

// Purchases returns the gate's view.
func (s *Store) Purchases() purchase.Book { return purchases{s} }

// Outbox returns the sender's view, for a store whose calls are all of one chain.
func (s *Store) Outbox() *Outbox { return &Outbox{s: s} }

// OutboxOn returns the view of the senders on one of several chains. IDs of calls are unique in the whole store.
func (s *Store) OutboxOn(chainID uint64) *Outbox { return &Outbox{s, chainID} }

// Commits returns how many transactions this store has put on disk, each with a flush of its own: writes that come together
// share one.
func (s *Store) Commits() uint64 { return s.writer.commits.Load() }

// write runs fn in a transaction that it may share with others.
func (s *Store) write(ctx context.Context, fn func(*session) error) error {
	return s.writer.do(ctx, fn)
}

// read runs fn on one snapshot.
func (s *Store) read(ctx context.Context, fn func(*session) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-s.closed:
		return ErrClosed
	default:
	}
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-s.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	r, err := s.takeReader()
	if err != nil {
		return err
	}
	defer s.putReader(r) // also when fn panics
	if err := r.control(s.dialect.beginRead); err != nil {
		return fmt.Errorf("begin to read: %w", err)
	}
	return fn(r)
}

func (s *Store) takeReader() (*session, error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		r := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return r, nil
	}
	s.mu.Unlock()
	return newSession(s.dialect, s.reads)
}

// putReader ends a reader's snapshot and keeps it for the next read, unless it cannot even do that.
func (s *Store) putReader(r *session) {
	if r.control("ROLLBACK") != nil {
		_ = r.close()
		return
	}
	s.mu.Lock()
	s.idle = append(s.idle, r)
	s.mu.Unlock()
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
