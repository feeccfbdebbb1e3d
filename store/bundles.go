package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

const bundleColumns = `id, payer, payee, network, asset, route, unit, total, remaining, price, valid, valid_until, state`

// forCall finds the bundle from which p draws what is asked for, or makes the one that it buys, and returns both as they are
// to be written. Whether p is there already is not looked at; it never draws from the bundle that it bought itself.
func (s *session) forCall(p purchase.Purchase, ask purchase.BundleAsk) (purchase.Purchase, purchase.Bundle, error) {
	const key = " WHERE payer = ? AND payee = ? AND network = ? AND asset = ? AND route = ? AND unit = ? AND state = "
	args := []any{p.Payer[:], p.Payee[:], p.Network, p.Asset[:], p.Route, p.Unit}
	one, named := "", []any(nil)
	if ask.Bundle != "" {
		one, named = " AND id = ?", []any{ask.Bundle}
	}
	all, err := s.bundles(key+"'open' AND remaining > 0 AND remaining >= ? AND valid_until > ? AND id <> ?"+one+" ORDER BY valid_until, seq LIMIT 1",
		append(append(args[:6:6], ask.Draw, instant{&p.ReservedAt}, p.ID), named...)...)
	if err != nil {
		return p, purchase.Bundle{}, err
	}
	if len(all) == 1 {
		b := all[0]
		b.Remaining -= ask.Draw
		return p.Draw(b, ask), b, nil
	}
	if all, err = s.bundles(key+"'buying'"+one, append(args[:6:6], named...)...); err != nil {
		return p, purchase.Bundle{}, err
	}
	for _, b := range all {
		buyer, _, err := s.purchase("WHERE id = ?", b.ID)
		if err != nil {
			return p, purchase.Bundle{}, err
		}
		if b.BoughtBy(buyer, p, ask) {
			return p, purchase.Bundle{}, purchase.ErrBuying
		}
	}
	if ask.Buy == 0 || ask.Bundle != "" {
		return p, purchase.Bundle{}, purchase.ErrNoBundle
	}
	p, b := p.Buy(ask)
	return p, b, nil
}

// finishBundle writes a bundle after the purchase that buys it, or one that draws from it, went from old to done.
func (s *session) finishBundle(old, done purchase.Purchase) error {
	b, _, err := s.bundle(done.Bundle)
	if err != nil {
		return err
	}
	if b, there := b.Finished(old, done); there {
		return s.putBundle(b)
	}
	if _, err := s.exec("DELETE FROM bundle WHERE id = ?", done.Bundle); err != nil {
		return fmt.Errorf("bundle %s: %w", done.Bundle, err)
	}
	return nil
}

func (s *session) addBundle(b purchase.Bundle) error {
	err := b.Check()
	if err == nil {
		_, err = s.exec("INSERT INTO bundle ("+bundleColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			b.ID, b.Payer[:], b.Payee[:], b.Network, b.Asset[:], b.Route, b.Unit, b.Total, b.Remaining, b.Price, int64(b.Valid),
			instant{&b.ValidUntil}, string(b.State))
	}
	if err != nil {
		return fmt.Errorf("bundle %s: %w", b.ID, err)
	}
	return nil
}

// putBundle writes what can change of a bundle, and putRemaining what a draw changes.
func (s *session) putBundle(b purchase.Bundle) error {
	return s.changeBundle(b, "UPDATE bundle SET remaining = ?, price = ?, valid_until = ?, state = ? WHERE id = ?",
		b.Remaining, b.Price, instant{&b.ValidUntil}, string(b.State), b.ID)
}

func (s *session) putRemaining(b purchase.Bundle) error {
	return s.changeBundle(b, "UPDATE bundle SET remaining = ? WHERE id = ?", b.Remaining, b.ID)
}

func (s *session) changeBundle(b purchase.Bundle, query string, args ...any) error {
	err := b.Check()
	if err == nil {
		var n int64
		n, err = s.exec(query, args...)
		if err == nil && n == 0 {
			err = errMissing
		}
	}
	if err != nil {
		return fmt.Errorf("bundle %s: %w", b.ID, err)
	}
	return nil
}

func (s *session) bundle(id string) (purchase.Bundle, bool, error) {
	return first(s.bundles(" WHERE id = ?", id))
}

func (s *session) bundles(where string, args ...any) (all []purchase.Bundle, err error) {
	err = s.each("SELECT "+bundleColumns+" FROM bundle"+where, args, func(rows *sql.Rows) error {
		var b purchase.Bundle
		err := rows.Scan(&b.ID, fixed(b.Payer[:]), fixed(b.Payee[:]), &b.Network, fixed(b.Asset[:]), &b.Route, &b.Unit, &b.Total, &b.Remaining,
			&b.Price, &b.Valid, instant{&b.ValidUntil}, &b.State)
		if err == nil {
			err = b.Check()
		}
		if err != nil {
			return corrupt("bundle", b.ID, err)
		}
		all = append(all, b)
		return nil
	})
	return all, err
}

// OpenBundle implements [purchase.Book].
func (b purchases) OpenBundle(ctx context.Context, id string, validUntil time.Time) error {
	return b.s.write(ctx, func(s *session) error {
		if err := s.lockPairOf(id); err != nil {
			return err
		}
		bundle, found, err := s.bundle(id)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("open bundle %s: there is none: %w", id, purchase.ErrState)
		case bundle.State == purchase.Open:
			return nil
		}
		buyer, _, err := s.purchase("WHERE id = ?", id)
		if err != nil {
			return err
		}
		if bundle, err = bundle.Opened(buyer, validUntil); err != nil {
			return fmt.Errorf("open bundle %s: %w", id, err)
		}
		return s.putBundle(bundle)
	})
}

// FindBundle implements [purchase.Book].
func (b purchases) FindBundle(ctx context.Context, id string) (bundle purchase.Bundle, found bool, err error) {
	err = b.s.read(ctx, func(s *session) error {
		bundle, found, err = s.bundle(id)
		return err
	})
	return bundle, found, err
}

// Bundles implements [purchase.Book].
func (b purchases) Bundles(ctx context.Context, payer, payee evm.Address) (all []purchase.Bundle, err error) {
	err = b.s.read(ctx, func(s *session) error {
		all, err = s.bundles(" WHERE payer = ? AND payee = ? ORDER BY seq", payer[:], payee[:])
		return err
	})
	return all, err
}

// Credit implements [purchase.Book].
func (b purchases) Credit(ctx context.Context, payer, payee evm.Address, network string, asset evm.Address) (amount money.Amount, err error) {
	err = b.s.read(ctx, func(s *session) error {
		amount, err = s.credit(purchase.Purchase{Payer: payer, Payee: payee, Network: network, Asset: asset})
		return err
	})
	return amount, err
}

// credit returns the credit from which p may take.
func (s *session) credit(p purchase.Purchase) (amount money.Amount, err error) {
	if _, err := s.one("SELECT amount FROM credit WHERE payer = ? AND payee = ? AND network = ? AND asset = ?",
		[]any{p.Payer[:], p.Payee[:], p.Network, p.Asset[:]}, &amount); err != nil {
		return money.Amount{}, corrupt("credit", p.Payer.Lower(), err)
	}
	return amount, nil
}

func (s *session) putCredit(p purchase.Purchase, amount money.Amount) error {
	if _, err := s.exec(`INSERT INTO credit (payer, payee, network, asset, amount) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (payer, payee, network, asset) DO UPDATE SET amount = excluded.amount`,
		p.Payer[:], p.Payee[:], p.Network, p.Asset[:], amount); err != nil {
		return fmt.Errorf("credit of %s: %w", p.Payer, err)
	}
	return nil
}

func (s *session) takeCredit(p purchase.Purchase) error {
	has, err := s.credit(p)
	if err != nil {
		return err
	}
	rest, enough := has.Sub(p.Credit)
	if !enough {
		return fmt.Errorf("%s of %s: %w", p.Credit, has, purchase.ErrNoCredit)
	}
	return s.putCredit(p, rest)
}

func (s *session) giveCredit(p purchase.Purchase, amount money.Amount) error {
	has, err := s.credit(p)
	if err != nil {
		return err
	}
	sum, ok := has.Add(amount)
	if !ok {
		return fmt.Errorf("credit of %s: %w", p.Payer, money.ErrAmount)
	}
	return s.putCredit(p, sum)
}
