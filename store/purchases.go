package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// purchases is the gate's view. It implements [purchase.Book].
type purchases struct{ s *Store }

const purchaseColumns = `id, payment, request, state, route, method, url, way, network, asset, payer, payee, cap, charged, owed, credit,
	units, unit, price, cost, downstream, outcome, certificate, proof, proof_done, settling, tx, bundle, draws, buys, reserved_at, run_at, done_at, due_at`

// Reserve implements [purchase.Book].
func (b purchases) Reserve(ctx context.Context, p purchase.Purchase) (purchase.Purchase, error) {
	p, _, err := b.reserve(ctx, p, nil)
	return p, err
}

// ReserveCall implements [purchase.Book].
func (b purchases) ReserveCall(ctx context.Context, p purchase.Purchase, ask purchase.BundleAsk) (purchase.Purchase, purchase.Bundle, error) {
	return b.reserve(ctx, p, &ask)
}

func (b purchases) reserve(ctx context.Context, p purchase.Purchase, ask *purchase.BundleAsk) (got purchase.Purchase, bundle purchase.Bundle, err error) {
	id := p.ID
	if p, err = p.Ready(); err == nil && ask != nil {
		err = ask.Check()
	}
	if err != nil {
		return purchase.Purchase{}, purchase.Bundle{}, fmt.Errorf("reserve purchase %s: %w", id, err)
	}
	for _, at := range []*time.Time{&p.ReservedAt, &p.RunAt, &p.DoneAt, &p.Due} {
		*at = utc(*at)
	}
	taken := false // a purchase that is there is an answer, not a failure that undoes something
	err = b.s.write(ctx, func(s *session) error {
		got, bundle, taken = p, purchase.Bundle{}, false
		err := s.lockPair(p.Payer, p.Payee)
		if err == nil && ask != nil {
			got, bundle, err = s.forCall(p, *ask)
			got.RunAt = utc(got.RunAt)
		}
		if err == nil {
			taken, err = s.addPurchase(&got)
		} else if errors.Is(err, purchase.ErrNoBundle) || errors.Is(err, purchase.ErrBuying) {
			// A payment that was seen before needs no bundle.
			if old, found, e := s.purchaseOf(p); e != nil || found {
				got, taken, err = old, found, e
			}
		}
		switch {
		case err != nil:
			return err
		case taken:
			bundle = purchase.Bundle{}
			if got.Bundle != "" {
				bundle, _, err = s.bundle(got.Bundle)
			}
			return err
		}
		if got.Buys > 0 {
			err = s.addBundle(bundle)
		} else if got.Bundle != "" {
			err = s.putRemaining(bundle)
		}
		if err == nil && !got.Credit.IsZero() {
			err = s.takeCredit(got)
		}
		return err
	})
	if err != nil {
		return purchase.Purchase{}, purchase.Bundle{}, fmt.Errorf("reserve purchase %s: %w", id, err)
	}
	if taken {
		return got, bundle, fmt.Errorf("reserve purchase %s: it is %s: %w", id, got.ID, purchase.ErrTaken)
	}
	return got, bundle, nil
}

// addPurchase inserts a purchase, or reads the one that has its payment or id.
func (s *session) addPurchase(p *purchase.Purchase) (taken bool, err error) {
	if err := p.Check(); err != nil {
		return false, err
	}
	n, err := s.exec(`INSERT INTO purchase (`+purchaseColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING`,
		p.ID, p.Payment[:], p.Request[:], string(p.State), p.Route, p.Method, p.URL, p.Way, p.Network, p.Asset[:], p.Payer[:], p.Payee[:],
		p.Cap, p.Charged, p.Owed, p.Credit, p.Units, p.Unit, p.Price, p.Cost, p.Downstream, p.Outcome, orNull(p.Certificate), orNull(p.Proof), bit(p.ProofDone),
		bit(p.Settling), hashOrNull(p.Transaction), p.Bundle, p.Draws, p.Buys,
		instant{&p.ReservedAt}, instant{&p.RunAt}, instant{&p.DoneAt}, instant{&p.Due})
	if err != nil || n == 1 {
		return false, err
	}
	*p, taken, err = s.purchaseOf(*p)
	return taken, err
}

// purchaseOf returns the purchase that has p's payment, or else its id.
func (s *session) purchaseOf(p purchase.Purchase) (purchase.Purchase, bool, error) {
	got, found, err := s.purchase("WHERE payment = ?", p.Payment[:])
	if err != nil || found {
		return got, found, err
	}
	return s.purchase("WHERE id = ?", p.ID)
}

// Run implements [purchase.Book].
func (b purchases) Run(ctx context.Context, id string, certificate []byte, at time.Time) error {
	return b.s.write(ctx, func(s *session) error { // the rules of purchase.Ran, without reading first
		n, err := s.exec("UPDATE purchase SET state = ?, certificate = COALESCE(?, certificate), run_at = ? WHERE id = ? AND state = ? AND (settling = 0 OR tx IS NOT NULL)",
			string(purchase.Running), orNull(certificate), instant{&at}, id, string(purchase.Reserved))
		return s.moved(n, err, id, purchase.Running)
	})
}

// Settling implements [purchase.Book].
func (b purchases) Settling(ctx context.Context, id string, certificate []byte) error {
	return b.change(ctx, id, func(p purchase.Purchase, _ purchase.Bundle) (purchase.Purchase, error) { return p.Settles(certificate) })
}

// Settled implements [purchase.Book].
func (b purchases) Settled(ctx context.Context, id string, transaction evm.Hash) error {
	return b.change(ctx, id, func(p purchase.Purchase, _ purchase.Bundle) (purchase.Purchase, error) { return p.Settled(transaction) })
}

// NotSettled implements [purchase.Book].
func (b purchases) NotSettled(ctx context.Context, id string) error {
	return b.change(ctx, id, func(p purchase.Purchase, bundle purchase.Bundle) (purchase.Purchase, error) {
		return p.NotSettled(bundle)
	})
}

// Owe implements [purchase.Book].
func (b purchases) Owe(ctx context.Context, id string, owed money.Amount) error {
	return b.change(ctx, id, func(p purchase.Purchase, _ purchase.Bundle) (purchase.Purchase, error) { return p.Owes(owed) })
}

// Finish implements [purchase.Book].
func (b purchases) Finish(ctx context.Context, done purchase.Purchase) error {
	if done.Answer != nil && len(done.Answer.Body) > b.s.answerBytesMax {
		cut := *done.Answer
		cut.Body, cut.Whole = nil, false
		done.Answer = &cut
	}
	return b.change(ctx, done.ID, func(p purchase.Purchase, bundle purchase.Bundle) (purchase.Purchase, error) {
		return p.Finished(done, bundle)
	})
}

// change replaces a purchase by what fn makes of it and of the bundle that it buys, if it buys one, and gives back what it had
// more of credit and draws.
func (b purchases) change(ctx context.Context, id string, fn func(purchase.Purchase, purchase.Bundle) (purchase.Purchase, error)) error {
	return b.s.write(ctx, func(s *session) error {
		err := s.lockPairOf(id)
		if err == nil {
			err = s.changePurchase(id, fn)
		}
		if err != nil {
			return fmt.Errorf("purchase %s: %w", id, err)
		}
		return nil
	})
}

// lockPair is the lock of what a payer has at a payee: its purchases there, and their bundles, refunds and credit. Whoever
// reads of it to write has it first.
func (s *session) lockPair(payer, payee evm.Address) error {
	return s.lock(payer.Lower() + "/" + payee.Lower())
}

// lockPairOf is lockPair for who knows the purchase only; if there is none, it locks nothing.
func (s *session) lockPairOf(purchase string) error {
	if !s.dialect.locks {
		return nil
	}
	var payer, payee evm.Address
	found, err := s.one("SELECT payer, payee FROM purchase WHERE id = ?", []any{purchase}, fixed(payer[:]), fixed(payee[:]))
	switch {
	case err != nil:
		return corrupt("purchase", purchase, err)
	case !found:
		return nil
	}
	return s.lockPair(payer, payee)
}

func (s *session) changePurchase(id string, fn func(purchase.Purchase, purchase.Bundle) (purchase.Purchase, error)) error {
	old, found, err := s.purchase("WHERE id = ?", id)
	if err == nil && !found {
		err = fmt.Errorf("there is none: %w", purchase.ErrState)
	}
	var bundle purchase.Bundle
	if err == nil && old.Buys > 0 {
		bundle, _, err = s.bundle(old.Bundle)
	}
	if err != nil {
		return err
	}
	p, err := fn(old, bundle)
	if err != nil {
		return err
	}
	n, err := s.exec(`UPDATE purchase SET state = ?, charged = ?, owed = ?, credit = ?, units = ?, cost = ?, downstream = ?, outcome = ?,
		certificate = ?, proof = ?, settling = ?, tx = ?, draws = ?, done_at = ?, due_at = ? WHERE id = ? AND state = ?`,
		string(p.State), p.Charged, p.Owed, p.Credit, p.Units, p.Cost, p.Downstream, p.Outcome,
		orNull(p.Certificate), orNull(p.Proof), bit(p.Settling), hashOrNull(p.Transaction), p.Draws, instant{&p.DoneAt}, instant{&p.Due},
		id, string(old.State))
	if err := s.moved(n, err, id, p.State); err != nil {
		return err
	}
	switch {
	case p.Answer == nil && old.Answer != nil:
		_, err = s.exec("DELETE FROM answer WHERE id = ?", id)
	case p.Answer != old.Answer:
		err = s.putAnswer(id, *p.Answer, p.DoneAt)
	}
	if err == nil && (p.Draws != old.Draws || p.Buys > 0 && p.State != old.State) {
		err = s.finishBundle(old, p)
	}
	if back, _ := old.Credit.Sub(p.Credit); err == nil && !back.IsZero() {
		err = s.giveCredit(p, back)
	}
	return err
}

// moved turns what an update of a purchase's state says into an error.
func (s *session) moved(n int64, err error, id string, to purchase.State) error {
	if err == nil && n == 0 {
		err = purchase.ErrState
	}
	if err != nil {
		return fmt.Errorf("make purchase %s %s: %w", id, to, err)
	}
	return nil
}

func (s *session) putAnswer(id string, a purchase.Answer, at time.Time) error {
	header, err := json.Marshal(a.Header)
	if err != nil {
		return fmt.Errorf("answer of purchase %s: %w", id, err)
	}
	var body []byte // null when it is not kept
	if a.Whole {
		body = bytesOf(a.Body)
	} else {
		body = orNull(a.Body)
	}
	kept := int64(0) // since when; an answer without a time is the first to go
	if !at.IsZero() {
		kept = at.UnixNano()
	}
	if _, err := s.exec(`INSERT INTO answer (id, status, header, body, whole, done_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET status = excluded.status, header = excluded.header, body = excluded.body, whole = excluded.whole,
		done_at = excluded.done_at`, id, a.Status, string(header), body, bit(a.Whole), kept); err != nil {
		return fmt.Errorf("answer of purchase %s: %w", id, err)
	}
	return nil
}

// Find implements [purchase.Book].
func (b purchases) Find(ctx context.Context, payment evm.Hash) (purchase.Purchase, bool, error) {
	return b.find(ctx, "WHERE payment = ?", payment[:])
}

// FindID implements [purchase.Book].
func (b purchases) FindID(ctx context.Context, id string) (purchase.Purchase, bool, error) {
	return b.find(ctx, "WHERE id = ?", id)
}

func (b purchases) find(ctx context.Context, where string, arg any) (p purchase.Purchase, found bool, err error) {
	err = b.s.read(ctx, func(s *session) error {
		p, found, err = s.purchase(where, arg)
		return err
	})
	return p, found, err
}

// Unfinished implements [purchase.Book].
func (b purchases) Unfinished(ctx context.Context) ([]purchase.Purchase, error) {
	return b.list(ctx, false, "WHERE state IN ('reserved', 'running', 'working', 'pending') ORDER BY reserved_at, seq")
}

// Bought implements [purchase.Book].
func (b purchases) Bought(ctx context.Context, payer, payee evm.Address, route string, since time.Time) (purchase.Purchase, bool, error) {
	return first(b.list(ctx, true, `WHERE payer = ? AND payee = ? AND route = ? AND state = 'committed' AND done_at >= ?
		AND NOT EXISTS (SELECT 1 FROM refund WHERE refund.purchase = purchase.id AND refund.state <> 'failed' AND refund.kind <> 'return' AND (refund.kind = 'calls' OR refund.amount = purchase.charged))
		ORDER BY done_at DESC LIMIT 1`,
		payer[:], payee[:], route, instant{&since}))
}

// Captured implements [purchase.Book].
func (b purchases) Captured(ctx context.Context, payee evm.Address, way, network string, asset evm.Address, limit int) (all []purchase.Purchase, err error) {
	newest, err := b.list(ctx, false, `WHERE seq > (SELECT COALESCE(MAX(seq), 0) FROM purchase) - 4096 AND state = 'committed' AND way = ?
		AND payee = ? AND network = ? AND asset = ? AND charged <> credit AND (proof IS NULL OR proof_done = 1)
		AND NOT EXISTS (SELECT 1 FROM refund WHERE refund.purchase = purchase.id) ORDER BY seq DESC LIMIT ?`, way, payee[:], network, asset[:], limitOf(limit))
	for _, p := range newest {
		if p.Answer = nil; p.Credit.Less(p.Charged) {
			all = append(all, p)
		}
	}
	return all, err
}

// Undelivered implements [purchase.Book].
func (b purchases) Undelivered(ctx context.Context, limit int) ([]purchase.Purchase, error) {
	return b.list(ctx, true, "WHERE proof IS NOT NULL AND proof_done = 0 AND state IN ('committed', 'void') ORDER BY done_at, seq LIMIT ?", limitOf(limit))
}

func (b purchases) list(ctx context.Context, bodies bool, where string, args ...any) (all []purchase.Purchase, err error) {
	err = b.s.read(ctx, func(s *session) error {
		all, err = s.purchases(bodies, where, args...)
		return err
	})
	return all, err
}

// Delivered implements [purchase.Book].
func (b purchases) Delivered(ctx context.Context, id string) error {
	return b.s.write(ctx, func(s *session) error {
		n, err := s.exec("UPDATE purchase SET proof_done = 1 WHERE id = ? AND proof IS NOT NULL AND state IN ('committed', 'void')", id)
		if err == nil && n == 0 {
			err = purchase.ErrState
		}
		if err != nil {
			return fmt.Errorf("deliver proof of purchase %s: %w", id, err)
		}
		return nil
	})
}

// Secret implements [purchase.Book].
func (b purchases) Secret(ctx context.Context) ([32]byte, error) { return b.s.Secret(ctx, "quotes") }

func (s *session) secret(name string) (secret [32]byte, found bool, err error) {
	if found, err = s.one("SELECT value FROM secret WHERE name = ?", []any{name}, fixed(secret[:])); err != nil {
		return [32]byte{}, false, corrupt("secret", name, err)
	}
	return secret, found, nil
}

// Prune lets go of the bodies of answers that were finished before a time, at most limit of them in one go, and returns
// how many it were: call it until it returns less. The purchases stay, and so do status and header: a payment that was
// used once is used for ever, and figures are made from purchases. An answer that is held back until its purchase is paid
// stays whole.
func (s *Store) Prune(ctx context.Context, before time.Time, limit int) (n int, err error) {
	err = s.write(ctx, func(s *session) error {
		changed, err := s.exec(`UPDATE answer SET body = NULL, whole = 0 WHERE id IN
			(SELECT answer.id FROM answer JOIN purchase ON purchase.id = answer.id
			WHERE body IS NOT NULL AND answer.done_at < ? AND state = 'committed' ORDER BY answer.done_at LIMIT ?)`, before.UnixNano(), limit)
		n = int(changed)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("prune answers: %w", err)
	}
	return n, nil
}

func (s *session) purchase(where string, args ...any) (purchase.Purchase, bool, error) {
	return first(s.purchases(true, where, args...))
}

// purchases returns the purchases that a condition names, with their answers and, if asked for, the bodies of those.
func (s *session) purchases(bodies bool, where string, args ...any) (all []purchase.Purchase, err error) {
	err = s.each("SELECT "+purchaseColumns+" FROM purchase "+where, args, func(rows *sql.Rows) error {
		var p purchase.Purchase
		if err := rows.Scan(&p.ID, fixed(p.Payment[:]), fixed(p.Request[:]), &p.State, &p.Route, &p.Method, &p.URL, &p.Way, &p.Network,
			fixed(p.Asset[:]), fixed(p.Payer[:]), fixed(p.Payee[:]), &p.Cap, &p.Charged, &p.Owed, &p.Credit, &p.Units, &p.Unit, &p.Price, &p.Cost, &p.Downstream,
			&p.Outcome, &p.Certificate, &p.Proof, flag{&p.ProofDone}, flag{&p.Settling}, hashIfAny{&p.Transaction}, &p.Bundle, &p.Draws, &p.Buys,
			instant{&p.ReservedAt}, instant{&p.RunAt}, instant{&p.DoneAt}, instant{&p.Due}); err != nil {
			return corrupt("purchase", p.ID, err)
		}
		all = append(all, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range all {
		p := &all[i]
		if p.State != purchase.Reserved && p.State != purchase.Running {
			if p.Answer, err = s.answer(p.ID, bodies); err != nil {
				return nil, err
			}
		}
		if err := p.Check(); err != nil {
			return nil, corrupt("purchase", p.ID, err)
		}
	}
	return all, nil
}

func (s *session) answer(id string, body bool) (*purchase.Answer, error) {
	var a purchase.Answer
	var header []byte
	column := "body"
	if !body {
		column = "NULL"
	}
	found, err := s.one("SELECT status, header, "+column+", whole FROM answer WHERE id = ?", []any{id}, &a.Status, &header, &a.Body, flag{&a.Whole})
	if err == nil && found {
		err = json.Unmarshal(header, &a.Header)
	}
	if err != nil {
		return nil, corrupt("answer", id, err)
	}
	if !found {
		return nil, nil
	}
	return &a, nil
}

// orNull writes nothing as null.
func orNull(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// hashOrNull writes the zero hash as null.
func hashOrNull(h evm.Hash) []byte {
	if h.IsZero() {
		return nil
	}
	return h[:]
}

// hashIfAny reads what hashOrNull writes.
type hashIfAny struct{ to *evm.Hash }

// Scan implements sql.Scanner.
func (h hashIfAny) Scan(src any) error {
	*h.to = evm.Hash{}
	if src == nil {
		return nil
	}
	if err := fixed(h.to[:]).Scan(src); err != nil {
		return err
	}
	if h.to.IsZero() {
		return errors.New("a hash of zeros")
	}
	return nil
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}
