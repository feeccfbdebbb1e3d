package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/farthing402/farthing/purchase"
)

const refundColumns = `purchase, kind, amount, calls, proof, state, tx, reason, begun_at, done_at`

// Refund implements [purchase.Book].
func (b purchases) Refund(ctx context.Context, r purchase.Refund) (got purchase.Refund, err error) {
	r = r.Begun()
	r.At, r.DoneAt = utc(r.At), utc(r.DoneAt)
	if err := r.Check(); err != nil {
		return purchase.Refund{}, fmt.Errorf("refund purchase %s: %w", r.Purchase, err)
	}
	other := false // a refund that is there is an answer, not a failure that undoes something
	err = b.s.write(ctx, func(s *session) error {
		got, other = r, false
		if err := s.lockPairOf(r.Purchase); err != nil {
			return err
		}
		old, found, err := s.refund(r.Purchase)
		if err != nil {
			return err
		}
		if found {
			got, other = old, !old.Same(r)
			return nil
		}
		return s.addRefund(r)
	})
	if err == nil && other {
		return got, fmt.Errorf("refund purchase %s: %w", r.Purchase, purchase.ErrRefunded)
	}
	if err != nil {
		return purchase.Refund{}, fmt.Errorf("refund purchase %s: %w", r.Purchase, err)
	}
	return got, nil
}

// addRefund writes a refund and what the book itself gives back.
func (s *session) addRefund(r purchase.Refund) error {
	p, found, err := s.purchase("WHERE id = ?", r.Purchase)
	if err == nil && !found {
		err = fmt.Errorf("there is none: %w", purchase.ErrState)
	}
	var bundle purchase.Bundle
	if err == nil && p.Bundle != "" {
		bundle, _, err = s.bundle(p.Bundle)
	}
	if err == nil {
		err = p.MayRefund(r, bundle)
	}
	if err != nil {
		return err
	}
	if r.Kind == purchase.ByCredit {
		if err := s.giveCredit(p, r.Amount); err != nil {
			return err
		}
	}
	if after := bundle.Refunded(r); after != bundle {
		if err := s.putBundle(after); err != nil {
			return err
		}
	}
	_, err = s.exec("INSERT INTO refund ("+refundColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		r.Purchase, string(r.Kind), r.Amount, r.Calls, orNull(r.Proof), string(r.State), hashOrNull(r.Transaction), r.Reason,
		instant{&r.At}, instant{&r.DoneAt})
	return err
}

// FinishRefund implements [purchase.Book].
func (b purchases) FinishRefund(ctx context.Context, done purchase.Refund) error {
	return b.s.write(ctx, func(s *session) error {
		if err := s.lockPairOf(done.Purchase); err != nil {
			return err
		}
		old, found, err := s.refund(done.Purchase)
		if err == nil && !found {
			err = fmt.Errorf("there is none: %w", purchase.ErrState)
		}
		var r purchase.Refund
		if err == nil {
			r, err = old.Finished(done)
		}
		if err == nil {
			var n int64
			n, err = s.exec("UPDATE refund SET kind = ?, proof = ?, state = ?, tx = ?, reason = ?, done_at = ? WHERE purchase = ? AND state = ?",
				string(r.Kind), orNull(r.Proof), string(r.State), hashOrNull(r.Transaction), r.Reason, instant{&r.DoneAt}, r.Purchase, string(old.State))
			if err == nil && n == 0 {
				err = purchase.ErrState
			}
		}
		if err != nil {
			return fmt.Errorf("refund of purchase %s: %w", done.Purchase, err)
		}
		return nil
	})
}

// FindRefund implements [purchase.Book].
func (b purchases) FindRefund(ctx context.Context, id string) (r purchase.Refund, found bool, err error) {
	err = b.s.read(ctx, func(s *session) error {
		r, found, err = s.refund(id)
		return err
	})
	return r, found, err
}

// OpenRefunds implements [purchase.Book].
func (b purchases) OpenRefunds(ctx context.Context) (all []purchase.Refund, err error) {
	err = b.s.read(ctx, func(s *session) error {
		all, err = s.refunds("WHERE state = 'queued' ORDER BY begun_at, purchase")
		return err
	})
	return all, err
}

func (s *session) refund(id string) (purchase.Refund, bool, error) {
	return first(s.refunds("WHERE purchase = ?", id))
}

func (s *session) refunds(where string, args ...any) (all []purchase.Refund, err error) {
	err = s.each("SELECT "+refundColumns+" FROM refund "+where, args, func(rows *sql.Rows) error {
		var r purchase.Refund
		err := rows.Scan(&r.Purchase, &r.Kind, &r.Amount, &r.Calls, &r.Proof, &r.State, hashIfAny{&r.Transaction}, &r.Reason,
			instant{&r.At}, instant{&r.DoneAt})
		if err == nil {
			err = r.Check()
		}
		if err != nil {
			return corrupt("refund", r.Purchase, err)
		}
		all = append(all, r)
		return nil
	})
	return all, err
}
