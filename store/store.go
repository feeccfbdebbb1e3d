package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

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
	name           string // path or URL, as messages may show it
	path           string // of the file, if it is one
	dialect        *dialect
	answerBytesMax int

	writer  writer
	commits atomic.Uint64
	reading chan struct{} // holds one element for each read that runs
	mu      sync.Mutex
	idle    []*session // guarded by mu; readers, the one used last is used next, since its cache is warm
	reads   *sql.DB
	writes  *sql.DB
	owner   *lease // nil without Exclusive
	leases  *pool  // what renews leases; nil where a lease is a lock on a file

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
// however it ended: on PostgreSQL, ten seconds after that. Stores without the option come and go as they like. If the
// right is lost, because the server could not be reached for so long, the store's writes are [ErrLost].
func Exclusive() Option { return func(o *options) { o.exclusive = true } }

// AnswerBytesMax says how large the body of a stored answer may be. Of a larger one only status and header are kept.
func AnswerBytesMax(n int) Option { return func(o *options) { o.answerBytesMax = n } }

// Open opens a database and brings its schema up to date. Its name is the path of a file, which is made (for its owner
// only) if there is none, or the URL of a database on a PostgreSQL server, postgres://user@host:port/database. It fails
// with a [*VersionError] if a newer program has written it, and with an [*InUseError] if it is to be [Exclusive] and is
// not. Cancelling ctx stops opening only.
func Open(ctx context.Context, name string, opts ...Option) (*Store, error) {
	o := options{answerBytesMax: DefaultAnswerBytesMax}
	for _, opt := range opts {
		opt(&o)
	}
	s := &Store{name: name, answerBytesMax: o.answerBytesMax, closed: make(chan struct{}), reading: make(chan struct{}, readersMax)}
	open := s.openFile
	if isURL(name) {
		open = s.openServer
	}
	if err := open(ctx, o); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("open database %s: %w", s.name, err)
	}
	for _, db := range []*sql.DB{s.writes, s.reads} {
		db.SetMaxIdleConns(-1) // sessions keep the connections
	}
	return s, nil
}

// Close ends the store after the writes and reads that have begun. Later calls of its books are an [ErrClosed].
func (s *Store) Close() (err error) {
	s.closing.Do(func() {
		close(s.closed)
		if s.writer != nil {
			err = s.writer.close()
		}
		for range readersMax {
			s.reading <- struct{}{} // until all reads are over
		}
		if s.owner != nil {
			err = errors.Join(err, s.owner.release())
		}
		if s.leases != nil {
			err = errors.Join(err, s.leases.close())
		}
		for _, r := range s.idle {
			err = errors.Join(err, r.close())
		}
		for _, db := range []*sql.DB{s.reads, s.writes} {
			if db != nil {
				err = errors.Join(err, db.Close())
			}
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
func (s *Store) Commits() uint64 { return s.commits.Load() }

// writer runs writes: see group and pool.
type writer interface {
	// do runs fn in a transaction and returns when that is on disk or undone.
	do(ctx context.Context, fn func(*session) error) error
	close() error
}

func (s *Store) newWriter() (*session, error) { return newSession(s.dialect, s.writes, true) }

// write runs fn in a transaction that it may share with others.
func (s *Store) write(ctx context.Context, fn func(*session) error) error {
	if s.owner != nil {
		select {
		case <-s.owner.lost:
			return ErrLost
		default:
		}
	}
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
		return fmt.Errorf("begin to read: %w", err)
	}
	defer s.putReader(r) // also when fn panics
	return fn(r)
}

// takeReader returns a session whose snapshot is fixed. One whose connection the server has ended meanwhile is replaced.
func (s *Store) takeReader() (*session, error) {
	for {
		s.mu.Lock()
		n := len(s.idle)
		if n == 0 {
			s.mu.Unlock()
			break
		}
		r := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		if r.begin() == nil {
			return r, nil
		}
		_ = r.close()
	}
	r, err := newSession(s.dialect, s.reads, false)
	if err != nil {
		return nil, err
	}
	if err := r.begin(); err != nil {
		_ = r.close()
		return nil, err
	}
	return r, nil
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

// pause waits, or returns why ctx is over.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
