package purchase

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Memory is a [Book] that forgets everything when the process ends: for tests and for trying things out. A gate that
// takes money needs one that remembers, or a restart lets a payment be used twice. Make one with [NewMemory]; it is safe
// for concurrent use.
type Memory struct {
	mu        sync.Mutex
	purchases map[string]*Purchase     // guarded by mu; by id
	payments  map[evm.Hash]string      // guarded by mu; to id
	order     map[string]int           // guarded by mu; by when they were reserved
	bundles   map[string]Bundle        // guarded by mu; by id
	refunds   map[string]Refund        // guarded by mu; by the purchase's id
	credits   map[account]money.Amount // guarded by mu
	secret    *[32]byte                // guarded by mu
}

// account is where a payer's credit stands.
type account struct {
	payer, payee evm.Address
	network      string
	asset        evm.Address
}

func (p *Purchase) account() account { return account{p.Payer, p.Payee, p.Network, p.Asset} }

// NewMemory returns an empty book.
func NewMemory() *Memory {
	return &Memory{
		purchases: make(map[string]*Purchase), payments: make(map[evm.Hash]string), order: make(map[string]int),
		bundles: make(map[string]Bundle), refunds: make(map[string]Refund), credits: make(map[account]money.Amount),
	}
}

// Reserve implements [Book].
func (m *Memory) Reserve(ctx context.Context, p Purchase) (Purchase, error) {
	p, _, err := m.reserve(ctx, p, nil)
	return p, err
}

// ReserveCall implements [Book].
func (m *Memory) ReserveCall(ctx context.Context, p Purchase, ask BundleAsk) (Purchase, Bundle, error) {
	return m.reserve(ctx, p, &ask)
}

func (m *Memory) reserve(ctx context.Context, p Purchase, ask *BundleAsk) (_ Purchase, b Bundle, err error) {
	id := p.ID
	fail := func(p Purchase, err error) (Purchase, Bundle, error) {
		return p, b, fmt.Errorf("reserve purchase %s: %w", id, err)
	}
	if p, err = p.Ready(); err == nil && ask != nil {
		err = ask.Check()
	}
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return fail(Purchase{}, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	owner, taken := m.payments[p.Payment]
	if !taken {
		owner = p.ID
		_, taken = m.purchases[owner]
	}
	if taken {
		old := m.purchases[owner]
		b = m.bundles[old.Bundle]
		return fail(old.clone(), fmt.Errorf("it is %s: %w", owner, ErrTaken))
	}
	if ask != nil {
		if p, b, err = m.call(p, *ask); err != nil {
			b = Bundle{}
			return fail(Purchase{}, err)
		}
	}
	credit, enough := m.credits[p.account()].Sub(p.Credit)
	if !enough {
		err = ErrNoCredit
	}
	if err = cmp.Or(err, p.Check()); err != nil {
		b = Bundle{}
		return fail(Purchase{}, err)
	}
	if ask != nil {
		m.bundles[b.ID] = b
	}
	m.credits[p.account()] = credit
	kept := p.clone()
	m.purchases[p.ID], m.payments[p.Payment], m.order[p.ID] = &kept, p.ID, len(m.order)
	return kept.clone(), b, nil
}

// call finds or makes the bundle for p.
func (m *Memory) call(p Purchase, ask BundleAsk) (Purchase, Bundle, error) {
	var best *Bundle
	busy := false
	for _, b := range m.bundles {
		if b.Serves(p, ask) && (best == nil || b.ValidUntil.Before(best.ValidUntil) ||
			b.ValidUntil.Equal(best.ValidUntil) && m.order[b.ID] < m.order[best.ID]) {
			best = &b
		}
		busy = busy || b.State == Buying && b.BoughtBy(*m.purchases[b.ID], p, ask)
	}
	switch {
	case best != nil:
		best.Remaining -= ask.Draw
		return p.Draw(*best, ask), *best, nil
	case busy:
		return p, Bundle{}, ErrBuying
	case ask.Buy == 0 || ask.Bundle != "":
		return p, Bundle{}, ErrNoBundle
	}
	p, b := p.Buy(ask)
	return p, b, b.Check()
}

// Run implements [Book].
func (m *Memory) Run(ctx context.Context, id string, certificate []byte, at time.Time) error {
	return m.change(ctx, id, func(p Purchase) (Purchase, error) { return p.Ran(certificate, at) })
}

// Settling implements [Book].
func (m *Memory) Settling(ctx context.Context, id string, certificate []byte) error {
	return m.change(ctx, id, func(p Purchase) (Purchase, error) { return p.Settles(certificate) })
}

// Settled implements [Book].
func (m *Memory) Settled(ctx context.Context, id string, transaction evm.Hash) error {
	return m.change(ctx, id, func(p Purchase) (Purchase, error) { return p.Settled(transaction) })
}

// NotSettled implements [Book].
func (m *Memory) NotSettled(ctx context.Context, id string) error {
	return m.change(ctx, id, func(p Purchase) (Purchase, error) { return p.NotSettled(m.bundles[p.Bundle]) })
}

// Owe implements [Book].
func (m *Memory) Owe(ctx context.Context, id string, owed money.Amount) error {
	return m.change(ctx, id, func(p Purchase) (Purchase, error) { return p.Owes(owed) })
}

// Finish implements [Book].
func (m *Memory) Finish(ctx context.Context, done Purchase) error {
	return m.change(ctx, done.ID, func(p Purchase) (Purchase, error) {
		old, b := p, m.bundles[p.Bundle]
		p, err := p.Finished(done, b)
		if err != nil {
			return p, err
		}
		back, _ := old.Credit.Sub(p.Credit)
		credit, ok := m.credits[p.account()].Add(back)
		if !ok {
			return p, fmt.Errorf("credit of %s: %w", p.Payer, money.ErrAmount)
		}
		if p.Bundle != "" {
			b, there := b.Finished(old, p)
			if !there {
				delete(m.bundles, p.Bundle)
			} else if err := b.Check(); err != nil {
				return p, fmt.Errorf("bundle %s: %w", b.ID, err)
			} else {
				m.bundles[b.ID] = b.clone()
			}
		}
		m.credits[p.account()] = credit
		return p, nil
	})
}

// Delivered implements [Book].
func (m *Memory) Delivered(ctx context.Context, id string) error {
	return m.change(ctx, id, func(p Purchase) (Purchase, error) {
		if !p.State.Final() || len(p.Proof) == 0 {
			return p, fmt.Errorf("it is %s and has a proof of %d bytes: %w", p.State, len(p.Proof), ErrState)
		}
		p.ProofDone = true
		return p, nil
	})
}

// change replaces a purchase by what fn makes of it, or leaves it. fn changes nothing else if it fails.
func (m *Memory) change(ctx context.Context, id string, fn func(Purchase) (Purchase, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.purchases[id]
	err := ctx.Err()
	switch {
	case err != nil:
	case !ok:
		err = fmt.Errorf("there is none: %w", ErrState)
	default:
		var changed Purchase
		if changed, err = fn(*old); err == nil {
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
	all, err := m.list(ctx, func(p *Purchase) bool { return !p.State.Final() }, func(p Purchase) time.Time { return p.ReservedAt })
	for _, p := range all {
		if p.Answer != nil {
			p.Answer.Body = nil // of the copy
		}
	}
	return all, err
}

// Captured implements [Book].
func (m *Memory) Captured(ctx context.Context, payee evm.Address, way, network string, asset evm.Address, limit int) ([]Purchase, error) {
	all, err := m.list(ctx, func(p *Purchase) bool {
		_, refunded := m.refunds[p.ID]
		return p.captured(way) && p.Payee == payee && p.Network == network && p.Asset == asset && !refunded
	}, func(p Purchase) time.Time { return p.ReservedAt })
	slices.Reverse(all)
	for i := range all {
		all[i].Answer = nil
	}
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all, err
}

// captured reports whether p is charged by a way, and nothing of it is still to be let go.
func (p *Purchase) captured(way string) bool {
	return p.State == Committed && p.Way == way && p.Credit.Less(p.Charged) && (len(p.Proof) == 0 || p.ProofDone)
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

// OpenBundle implements [Book].
func (m *Memory) OpenBundle(ctx context.Context, id string, validUntil time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, there := m.bundles[id]
	err := ctx.Err()
	switch {
	case err != nil:
	case !there:
		err = fmt.Errorf("there is none: %w", ErrState)
	case b.State == Open:
		return nil
	default:
		if b, err = b.Opened(*m.purchases[id], validUntil); err == nil {
			m.bundles[id] = b.clone()
		}
	}
	if err != nil {
		return fmt.Errorf("open bundle %s: %w", id, err)
	}
	return nil
}

// FindBundle implements [Book].
func (m *Memory) FindBundle(ctx context.Context, id string) (Bundle, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Bundle{}, false, err
	}
	b, there := m.bundles[id]
	return b, there, nil
}

// Bundles implements [Book].
func (m *Memory) Bundles(ctx context.Context, payer, payee evm.Address) (all []Bundle, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.bundles {
		if b.Payer == payer && b.Payee == payee {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b Bundle) int { return cmp.Compare(m.order[a.ID], m.order[b.ID]) })
	return all, ctx.Err()
}

// Bought implements [Book].
func (m *Memory) Bought(ctx context.Context, payer, payee evm.Address, route string, since time.Time) (newest Purchase, found bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.purchases {
		r, refunded := m.refunds[p.ID]
		if p.Payer == payer && p.Payee == payee && p.Route == route && p.State == Committed && !p.DoneAt.Before(since) &&
			!(refunded && r.All(*p)) &&
			(!found || p.DoneAt.After(newest.DoneAt)) {
			newest, found = p.clone(), true
		}
	}
	return newest, found, ctx.Err()
}

// Refund implements [Book].
func (m *Memory) Refund(ctx context.Context, r Refund) (Refund, error) {
	fail := func(got Refund, err error) (Refund, error) {
		return got, fmt.Errorf("refund purchase %s: %w", r.Purchase, err)
	}
	r = r.Begun()
	if err := cmp.Or(r.Check(), ctx.Err()); err != nil {
		return fail(Refund{}, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, there := m.refunds[r.Purchase]; there {
		if !old.Same(r) {
			return fail(old.clone(), ErrRefunded)
		}
		return old.clone(), nil
	}
	p, there := m.purchases[r.Purchase]
	if !there {
		return fail(Refund{}, fmt.Errorf("there is none: %w", ErrState))
	}
	b := m.bundles[p.Bundle]
	if err := p.MayRefund(r, b); err != nil {
		return fail(Refund{}, err)
	}
	if r.Kind == ByCredit {
		credit, ok := m.credits[p.account()].Add(r.Amount)
		if !ok {
			return fail(Refund{}, fmt.Errorf("credit of %s: %w", p.Payer, money.ErrAmount))
		}
		m.credits[p.account()] = credit
	}
	if p.Bundle != "" {
		m.bundles[b.ID] = b.Refunded(r)
	}
	m.refunds[r.Purchase] = r.clone()
	return r.clone(), nil
}

// FinishRefund implements [Book].
func (m *Memory) FinishRefund(ctx context.Context, done Refund) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, there := m.refunds[done.Purchase]
	err := ctx.Err()
	switch {
	case err != nil:
	case !there:
		err = fmt.Errorf("there is none: %w", ErrState)
	default:
		if r, err = r.Finished(done); err == nil {
			m.refunds[done.Purchase] = r.clone()
		}
	}
	if err != nil {
		return fmt.Errorf("refund of purchase %s: %w", done.Purchase, err)
	}
	return nil
}

// FindRefund implements [Book].
func (m *Memory) FindRefund(ctx context.Context, purchase string) (Refund, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Refund{}, false, err
	}
	r, there := m.refunds[purchase]
	return r.clone(), there, nil
}

// OpenRefunds implements [Book].
func (m *Memory) OpenRefunds(ctx context.Context) (all []Refund, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.refunds {
		if r.State == Queued {
			all = append(all, r.clone())
		}
	}
	slices.SortFunc(all, func(a, b Refund) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Purchase, b.Purchase))
	})
	return all, ctx.Err()
}

// Credit implements [Book].
func (m *Memory) Credit(ctx context.Context, payer, payee evm.Address, network string, asset evm.Address) (money.Amount, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return money.Amount{}, err
	}
	return m.credits[account{payer, payee, network, asset}], nil
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
	for _, at := range []*time.Time{&c.ReservedAt, &c.RunAt, &c.DoneAt, &c.Due} {
		*at = utc(*at)
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

func (b Bundle) clone() Bundle {
	b.ValidUntil = utc(b.ValidUntil)
	return b
}

func (r Refund) clone() Refund {
	r.Proof, r.At, r.DoneAt = bytes.Clone(r.Proof), utc(r.At), utc(r.DoneAt)
	return r
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}
