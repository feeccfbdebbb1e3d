package purchase

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
)

// Check returns an error if members that must agree do not. A [Book] asks it before it writes and after it reads.
func (p Purchase) Check() error {
	if _, known := next[p.State]; !known || p.State == "" {
		return fmt.Errorf("state %q is none", p.State)
	}
	switch {
	case p.ID == "":
		return errors.New("it has no id")
	case p.Cap.Less(p.Charged):
		return fmt.Errorf("charged %s of %s", p.Charged, p.Cap)
	case p.State != Committed && !p.Charged.IsZero():
		return fmt.Errorf("charged %s, but it is %s", p.Charged, p.State)
	case p.State != Committed && p.Answer != nil:
		return fmt.Errorf("it has an answer, but it is %s", p.State)
	case p.ProofDone && len(p.Proof) == 0:
		return errors.New("a proof is delivered, but there is none")
	}
	return nil
}

// Memory is a [Book] that forgets everything when the process ends: for tests and for trying things out. A gate that
// takes money needs one that remembers, or a restart lets a payment be used twice. Make one with [NewMemory]; it is safe
// for concurrent use.
type Memory struct {
	mu        sync.Mutex
	purchases map[string]*Purchase // guarded by mu; by id
	payments  map[evm.Hash]string  // guarded by mu; to id
	order     map[string]int       // guarded by mu; by when they were reserved
	secret    *[32]byte            // guarded by mu
}

// NewMemory returns an empty book.
func NewMemory() *Memory {
	return &Memory{purchases: make(map[string]*Purchase), payments: make(map[evm.Hash]string), order: make(map[string]int)}
}

// Reserve implements [Book].
func (m *Memory) Reserve(ctx context.Context, p Purchase) (Purchase, error) {
	if p.State != Reserved && p.State != "" {
		return Purchase{}, fmt.Errorf("reserve purchase %s, which is %s: %w", p.ID, p.State, ErrState)
	}
	p.State, p.Answer = Reserved, nil
	if err := cmp.Or(ctx.Err(), p.Check()); err != nil {
		return Purchase{}, fmt.Errorf("reserve purchase %s: %w", p.ID, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	id, taken := m.payments[p.Payment]
	if !taken {
		id = p.ID
		_, taken = m.purchases[id]
	}
	if taken {
		return m.purchases[id].clone(), fmt.Errorf("reserve purchase %s: it is %s: %w", p.ID, id, ErrTaken)
	}
	kept := p.clone()
	m.purchases[p.ID], m.payments[p.Payment], m.order[p.ID] = &kept, p.ID, len(m.order)
	return kept.clone(), nil
}

// Run implements [Book].
func (m *Memory) Run(ctx context.Context, id string, certificate []byte, at time.Time) error {
	return m.change(ctx, id, func(p *Purchase) error {
		if p.State != Reserved {
			return fmt.Errorf("it is %s: %w", p.State, ErrState)
		}
		p.State, p.Certificate, p.RunAt = Running, certificate, at
		return nil
	})
}

// Finish implements [Book].
func (m *Memory) Finish(ctx context.Context, done Purchase) error {
	return m.change(ctx, done.ID, func(p *Purchase) error {
		if !done.State.Final() && done.State != Pending || !p.State.May(done.State) {
			return fmt.Errorf("it is %s and cannot become %s: %w", p.State, done.State, ErrState)
		}
		p.State, p.Charged, p.Units, p.Cost, p.Downstream = done.State, done.Charged, done.Units, done.Cost, done.Downstream
		p.Outcome, p.Proof, p.DoneAt, p.Answer = done.Outcome, done.Proof, done.DoneAt, done.Answer
		return nil
	})
}

// Delivered implements [Book].
func (m *Memory) Delivered(ctx context.Context, id string) error {
	return m.change(ctx, id, func(p *Purchase) error {
		if !p.State.Final() || len(p.Proof) == 0 {
			return fmt.Errorf("it is %s and has a proof of %d bytes: %w", p.State, len(p.Proof), ErrState)
		}
		p.ProofDone = true
		return nil
	})
}

// change replaces a purchase by what fn makes of it, or leaves it.
func (m *Memory) change(ctx context.Context, id string, fn func(*Purchase) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.purchases[id]
	err := ctx.Err()
	switch {
	case err != nil:
	case !ok:
		err = fmt.Errorf("there is none: %w", ErrState)
	default:
		changed := *old
		if err = fn(&changed); err == nil {
			err = changed.Check()
		}
		if err == nil {
			changed = changed.clone()
			m.purchases[id] = &changed
		}
	}
	if err != nil {
		return fmt.Errorf("purchase %s: %w", id, err)
	}
	return nil
}

// Find implements [Book].
func (m *Memory) Find(ctx context.Context, payment evm.Hash) (Purchase, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(ctx, m.payments[payment])
}

// FindID implements [Book].
func (m *Memory) FindID(ctx context.Context, id string) (Purchase, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(ctx, id)
}

func (m *Memory) find(ctx context.Context, id string) (Purchase, bool, error) {
	if err := ctx.Err(); err != nil {
		return Purchase{}, false, err
	}
	p, ok := m.purchases[id]
	if !ok {
		return Purchase{}, false, nil
	}
	return p.clone(), true, nil
}

// Unfinished implements [Book].
func (m *Memory) Unfinished(ctx context.Context) ([]Purchase, error) {
	return m.list(ctx, func(p *Purchase) bool { return !p.State.Final() }, func(p Purchase) time.Time { return p.ReservedAt })
}

// Undelivered implements [Book].
func (m *Memory) Undelivered(ctx context.Context, limit int) ([]Purchase, error) {
	all, err := m.list(ctx, func(p *Purchase) bool { return p.State.Final() && len(p.Proof) > 0 && !p.ProofDone },
		func(p Purchase) time.Time { return p.DoneAt })
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all, err
}

func (m *Memory) list(ctx context.Context, wanted func(*Purchase) bool, since func(Purchase) time.Time) (all []Purchase, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.purchases {
		if wanted(p) {
			all = append(all, p.clone())
		}
	}
	slices.SortFunc(all, func(a, b Purchase) int {
		return cmp.Or(since(a).Compare(since(b)), cmp.Compare(m.order[a.ID], m.order[b.ID]))
	})
	return all, ctx.Err()
}

// Secret implements [Book].
func (m *Memory) Secret(ctx context.Context) ([32]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.secret == nil {
		var fresh [32]byte
		if _, err := rand.Read(fresh[:]); err != nil {
			return fresh, fmt.Errorf("make secret: %w", err)
		}
		m.secret = &fresh
	}
	return *m.secret, ctx.Err()
}

// clone returns a copy that shares nothing with p, with times as a database gives them back.
func (p *Purchase) clone() Purchase {
	c := *p
	c.Certificate, c.Proof = bytes.Clone(p.Certificate), bytes.Clone(p.Proof)
	for _, at := range []*time.Time{&c.ReservedAt, &c.RunAt, &c.DoneAt} {
		if *at = at.Round(0).UTC(); at.IsZero() {
			*at = time.Time{}
		}
	}
	if p.Answer != nil {
		a := *p.Answer
		a.Body = bytes.Clone(a.Body)
		a.Header = maps.Clone(a.Header)
		for k, v := range a.Header {
			a.Header[k] = slices.Clone(v)
		}
		c.Answer = &a
	}
	return c
}
