package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/purchase"
)

// purchases is the gate's view. It implements [purchase.Book].
type purchases struct{ s *Store }

const purchaseColumns = `id, payment, request, state, route, method, url, way, network, asset, payer, payee, cap, charged, units, unit,
	cost, downstream, outcome, certificate, proof, proof_done, reserved_at, run_at, done_at`

// Reserve implements [purchase.Book].
func (b purchases) Reserve(ctx context.Context, p purchase.Purchase) (got purchase.Purchase, err error) {
	if p.State != purchase.Reserved && p.State != "" {
		return purchase.Purchase{}, fmt.Errorf("reserve purchase %s, which is %s: %w", p.ID, p.State, purchase.ErrState)
	}
	p.State, p.Answer = purchase.Reserved, nil
	p.ReservedAt, p.RunAt, p.DoneAt = utc(p.ReservedAt), utc(p.RunAt), utc(p.DoneAt)
	if err := p.Check(); err != nil {
		return purchase.Purchase{}, fmt.Errorf("reserve purchase %s: %w", p.ID, err)
	}
	taken := false // a purchase that is there is an answer, not a failure that undoes something
	err = b.s.write(ctx, func(s *session) error {
		got, taken = p, false
		_, err := s.exec(`INSERT INTO purchase (`+purchaseColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			p.ID, p.Payment[:], p.Request[:], string(p.State), p.Route, p.Method, p.URL, p.Way, p.Network, p.Asset[:], p.Payer[:], p.Payee[:],
			p.Cap, p.Charged, p.Units, p.Unit, p.Cost, p.Downstream, p.Outcome, orNull(p.Certificate), orNull(p.Proof), bit(p.ProofDone),
			instant{&p.ReservedAt}, instant{&p.RunAt}, instant{&p.DoneAt})
		if err == nil {
			return nil
		}
		if !s.dialect.duplicate(err) {
			return fmt.Errorf("reserve purchase %s: %w", p.ID, err)
		}
		taken = true
		var found bool
		if got, found, err = s.purchase("WHERE payment = ?", p.Payment[:]); err != nil || found {
			return err
		}
		got, _, err = s.purchase("WHERE id = ?", p.ID)
		return err
	})
	if err != nil {
		return purchase.Purchase{}, err
	}
	if taken {
		return got, fmt.Errorf("reserve purchase %s: it is %s: %w", p.ID, got.ID, purchase.ErrTaken)
	}
	return got, nil
}

// Run implements [purchase.Book].
func (b purchases) Run(ctx context.Context, id string, certificate []byte, at time.Time) error {
	return b.s.write(ctx, func(s *session) error {
		n, err := s.exec("UPDATE purchase SET state = ?, certificate = ?, run_at = ? WHERE id = ? AND state = ?",
			string(purchase.Running), orNull(certificate), instant{&at}, id, string(purchase.Reserved))
		return s.moved(n, err, id, purchase.Running)
	})
}

// Finish implements [purchase.Book].
func (b purchases) Finish(ctx context.Context, p purchase.Purchase) error {
	if p.State != purchase.Committed && p.State != purchase.Void && p.State != purchase.Pending {
		return fmt.Errorf("finish purchase %s as %q: %w", p.ID, p.State, purchase.ErrState)
	}
	if p.Answer != nil && len(p.Answer.Body) > b.s.answerBytesMax {
		cut := *p.Answer
		cut.Body, cut.Whole = nil, false
		p.Answer = &cut
	}
	return b.s.write(ctx, func(s *session) error {
		old, found, err := s.purchase("WHERE id = ?", p.ID)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("finish purchase %s: there is none: %w", p.ID, purchase.ErrState)
		case !old.State.May(p.State):
			return fmt.Errorf("finish purchase %s as %s: it is %s: %w", p.ID, p.State, old.State, purchase.ErrState)
		}
		done := old
		done.State, done.Charged, done.Units, done.Cost, done.Downstream = p.State, p.Charged, p.Units, p.Cost, p.Downstream
		done.Outcome, done.Proof, done.DoneAt, done.Answer = p.Outcome, p.Proof, p.DoneAt, p.Answer
		if err := done.Check(); err != nil {
			return fmt.Errorf("finish purchase %s: %w", p.ID, err)
		}
		n, err := s.exec(`UPDATE purchase SET state = ?, charged = ?, units = ?, cost = ?, downstream = ?, outcome = ?, proof = ?, done_at = ?
			WHERE id = ? AND state = ?`, string(p.State), p.Charged, p.Units, p.Cost, p.Downstream, p.Outcome, orNull(p.Proof), instant{&p.DoneAt},
			p.ID, string(old.State))
		if err := s.moved(n, err, p.ID, p.State); err != nil || p.Answer == nil {
			return err
		}
		return s.putAnswer(p.ID, *p.Answer, p.DoneAt)
	})
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
	if _, err := s.exec("INSERT INTO answer (id, status, header, body, whole, done_at) VALUES (?, ?, ?, ?, ?, ?)",
		id, a.Status, string(header), body, bit(a.Whole), kept); err != nil {
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
	return b.list(ctx, "WHERE state IN ('reserved', 'running', 'pending') ORDER BY reserved_at, seq")
}

// Undelivered implements [purchase.Book].
func (b purchases) Undelivered(ctx context.Context, limit int) ([]purchase.Purchase, error) {
	return b.list(ctx, "WHERE proof IS NOT NULL AND proof_done = 0 AND state IN ('committed', 'void') ORDER BY done_at, seq LIMIT ?", limitOf(limit))
}

func (b purchases) list(ctx context.Context, where string, args ...any) (all []purchase.Purchase, err error) {
	err = b.s.read(ctx, func(s *session) error {
		all, err = s.purchases(where, args...)
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
func (b purchases) Secret(ctx context.Context) (secret [32]byte, err error) {
	var found bool
	err = b.s.read(ctx, func(s *session) error {
		secret, found, err = s.secret("quotes")
		return err
	})
	if err != nil || found {
		return secret, err
	}
	err = b.s.write(ctx, func(s *session) error {
		var fresh [32]byte
		if _, err := rand.Read(fresh[:]); err != nil {
			return fmt.Errorf("make secret: %w", err)
		}
		// Of two processes that are first, the first in the database has made the secret of both.
		if _, err := s.exec("INSERT INTO secret (name, value) VALUES ('quotes', ?) ON CONFLICT (name) DO NOTHING", fresh[:]); err != nil {
			return fmt.Errorf("make secret: %w", err)
		}
		secret, _, err = s.secret("quotes")
		return err
	})
	if err != nil {
		return [32]byte{}, err
	}
	return secret, nil
}

func (s *session) secret(name string) (secret [32]byte, found bool, err error) {
	if found, err = s.one("SELECT value FROM secret WHERE name = ?", []any{name}, fixed(secret[:])); err != nil {
		return [32]byte{}, false, corrupt("secret", name, err)
	}
	return secret, found, nil
}

// Prune lets go of the bodies of answers that were finished before a time, at most limit of them in one go, and returns
// how many it were: call it until it returns less. The purchases stay, and so do status and header: a payment that was
// used once is used for ever, and figures are made from purchases.
func (s *Store) Prune(ctx context.Context, before time.Time, limit int) (n int, err error) {
	err = s.write(ctx, func(s *session) error {
		changed, err := s.exec(`UPDATE answer SET body = NULL, whole = 0 WHERE id IN
			(SELECT id FROM answer WHERE body IS NOT NULL AND done_at < ? ORDER BY done_at LIMIT ?)`, before.UnixNano(), limit)
		n = int(changed)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("prune answers: %w", err)
	}
	return n, nil
}

func (s *session) purchase(where string, args ...any) (purchase.Purchase, bool, error) {
	all, err := s.purchases(where, args...)
	if err != nil || len(all) == 0 {
		return purchase.Purchase{}, false, err
	}
	return all[0], true, nil
}

// purchases returns the purchases that a condition names, with their answers.
func (s *session) purchases(where string, args ...any) (all []purchase.Purchase, err error) {
	err = s.each("SELECT "+purchaseColumns+" FROM purchase "+where, args, func(rows *sql.Rows) error {
		var p purchase.Purchase
		if err := rows.Scan(&p.ID, fixed(p.Payment[:]), fixed(p.Request[:]), &p.State, &p.Route, &p.Method, &p.URL, &p.Way, &p.Network,
			fixed(p.Asset[:]), fixed(p.Payer[:]), fixed(p.Payee[:]), &p.Cap, &p.Charged, &p.Units, &p.Unit, &p.Cost, &p.Downstream, &p.Outcome,
			&p.Certificate, &p.Proof, flag{&p.ProofDone}, instant{&p.ReservedAt}, instant{&p.RunAt}, instant{&p.DoneAt}); err != nil {
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
		if p.State == purchase.Committed || p.State == purchase.Void {
			if p.Answer, err = s.answer(p.ID); err != nil {
				return nil, err
			}
		}
		if err := p.Check(); err != nil {
			return nil, corrupt("purchase", p.ID, err)
		}
	}
	return all, nil
}

func (s *session) answer(id string) (*purchase.Answer, error) {
	var a purchase.Answer
	var header []byte
	found, err := s.one("SELECT status, header, body, whole FROM answer WHERE id = ?", []any{id}, &a.Status, &header, &a.Body, flag{&a.Whole})
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

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}
