package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/facilitator/desk"
)

// settlements is a gas desk's view. It implements [desk.Book].
type settlements struct{ s *Store }

const settlementColumns = `id, chain_id, scheme, asset, payer, payee, amount, nonce, valid_after, valid_before, steps, to_address, data, gas_max,
	mark, shared, lane, state, asked_at, due, since_block, alone, stage, tries, call, from_address, tx, block, block_hash, is_foreign,
	gas, gas_before, cost, cost_before, code, reason, done_at`

// Record implements [desk.Book].
func (b settlements) Record(ctx context.Context, s desk.Settlement) (got desk.Settlement, fresh bool, err error) {
	if s.State != desk.Queued && !(s.State == desk.Settled && s.Amount.IsZero()) {
		return s, false, fmt.Errorf("record settlement %s, which is %s", s.ID.Short(), s.State)
	}
	err = b.s.write(ctx, func(db *session) error {
		got, fresh = s, true
		old, found, err := db.settlement("WHERE id = ?"+db.held(), s.ID[:])
		switch {
		case err != nil:
			return err
		case !found:
			return db.insertSettlement(s)
		case old.State == desk.Failed && old.Tries == s.Tries:
			if _, err := db.exec("DELETE FROM settlement WHERE id = ?", s.ID[:]); err != nil {
				return fmt.Errorf("settlement %s: %w", s.ID.Short(), err)
			}
			return db.insertSettlement(s)
		}
		got, fresh = old, false
		return nil
	})
	return got, fresh, err
}

// Find implements [desk.Book].
func (b settlements) Find(ctx context.Context, id evm.Hash) (s desk.Settlement, found bool, err error) {
	err = b.s.read(ctx, func(db *session) error {
		s, found, err = db.settlement("WHERE id = ?", id[:])
		return err
	})
	return s, found, err
}

// Open implements [desk.Book].
func (b settlements) Open(ctx context.Context, chainID uint64) ([]desk.Settlement, error) {
	return b.list(ctx, "WHERE chain_id = ? AND state IN ('queued', 'sent') ORDER BY seq", chainID)
}

// Mined implements [desk.Book].
func (b settlements) Mined(ctx context.Context, chainID, since uint64) ([]desk.Settlement, error) {
	return b.list(ctx, "WHERE chain_id = ? AND block IS NOT NULL AND block >= ? ORDER BY seq", chainID, since)
}

func (b settlements) list(ctx context.Context, where string, args ...any) (all []desk.Settlement, err error) {
	err = b.s.read(ctx, func(db *session) error {
		all, err = db.settlements(where, args...)
		return err
	})
	return all, err
}

// Send implements [desk.Book].
func (b settlements) Send(ctx context.Context, chainID uint64, call evm.Call, carried []desk.Settlement) error {
	return b.s.write(ctx, func(db *session) error {
		for _, s := range carried {
			if err := db.saveSettlement(s); err != nil {
				return err
			}
		}
		return db.enqueueOn(chainID, call)
	})
}

// Save implements [desk.Book].
func (b settlements) Save(ctx context.Context, changed []desk.Settlement, spent []desk.Spending) error {
	return b.s.write(ctx, func(db *session) error {
		for _, s := range changed {
			if err := db.saveSettlement(s); err != nil {
				return err
			}
		}
		for _, sp := range spent {
			if err := db.addSpending(sp); err != nil {
				return err
			}
		}
		return nil
	})
}

// Prune implements [desk.Book].
func (b settlements) Prune(ctx context.Context, chainID uint64, before time.Time, limit int) (n int, err error) {
	err = b.s.write(ctx, func(db *session) error {
		type row struct {
			id   evm.Hash
			call string
		}
		var old []row
		err := db.each(`SELECT id, call FROM settlement WHERE chain_id = ? AND CAST(valid_before AS NUMERIC) < ? AND done_at IS NOT NULL AND done_at < ?
			ORDER BY CAST(valid_before AS NUMERIC) LIMIT ?`, []any{chainID, before.Unix(), before.UnixNano(), limit}, func(rows *sql.Rows) error {
			var r row
			err := rows.Scan(fixed(r.id[:]), &r.call)
			old = append(old, r)
			return err
		})
		if err != nil {
			return err
		}
		calls := make(map[string]bool)
		for _, r := range old {
			if _, err := db.exec("DELETE FROM settlement WHERE id = ?", r.id[:]); err != nil {
				return err
			}
			calls[r.call] = true
		}
		for _, id := range slices.Sorted(maps.Keys(calls)) {
			var one int
			if used, err := db.one("SELECT 1 FROM settlement WHERE call = ? LIMIT 1", []any{id}, &one); err != nil || used {
				if err != nil {
					return err
				}
				continue
			}
			const finished = "FROM call WHERE id = ? AND state IN ('done', 'reverted')"
			_, err1 := db.exec("DELETE FROM attempt WHERE call_id IN (SELECT id "+finished+")", id)
			_, err2 := db.exec("DELETE "+finished, id)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
		}
		n = len(old)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("prune settlements: %w", err)
	}
	return n, nil
}

// Spent implements [desk.Book].
func (b settlements) Spent(ctx context.Context, chainID uint64, day string) (all []desk.Spending, err error) {
	err = b.s.read(ctx, func(db *session) error {
		all, err = db.spending("WHERE chain_id = ? AND day = ?", chainID, day)
		return err
	})
	return all, err
}

func (s *session) addSpending(sp desk.Spending) error {
	key := fmt.Sprintf("%d/%s/%s", sp.ChainID, sp.Day, sp.Account)
	if err := s.lock("gas/" + key); err != nil {
		return err
	}
	old, err := s.spending("WHERE chain_id = ? AND day = ? AND account = ? AND is_lane = ?", sp.ChainID, sp.Day, sp.Account[:], bit(sp.Lane))
	if err != nil {
		return err
	}
	for _, o := range old {
		wei, ok := sp.Wei.Add(o.Wei)
		if !ok || sp.Gas > math.MaxInt64-o.Gas {
			return fmt.Errorf("table gas_spent, key %s: the sum is out of range", key)
		}
		sp.Wei, sp.Gas = wei, sp.Gas+o.Gas
	}
	if _, err := s.exec(`INSERT INTO gas_spent (chain_id, day, account, is_lane, gas, wei) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (chain_id, day, account, is_lane) DO UPDATE SET gas = excluded.gas, wei = excluded.wei`,
		sp.ChainID, sp.Day, sp.Account[:], bit(sp.Lane), sp.Gas, sp.Wei); err != nil {
		return fmt.Errorf("table gas_spent, key %s: %w", key, err)
	}
	return nil
}

func (s *session) spending(where string, args ...any) (all []desk.Spending, err error) {
	err = s.each("SELECT chain_id, day, account, is_lane, gas, wei FROM gas_spent "+where, args, func(rows *sql.Rows) error {
		var sp desk.Spending
		if err := rows.Scan(&sp.ChainID, &sp.Day, fixed(sp.Account[:]), flag{&sp.Lane}, &sp.Gas, &sp.Wei); err != nil {
			return corrupt("gas_spent", sp.Day, err)
		}
		all = append(all, sp)
		return nil
	})
	return all, err
}

// settlementValues are the columns of a settlement, in the order of settlementColumns.
func settlementValues(s desk.Settlement) ([]any, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	steps := []byte("[]")
	if len(s.Steps) > 0 {
		var err error
		if steps, err = json.Marshal(s.Steps); err != nil {
			return nil, err
		}
	}
	var tx, blockHash, block any
	if !s.Tx.IsZero() {
		tx, block, blockHash = s.Tx[:], s.Block, s.BlockHash[:]
	}
	return []any{
		s.ID[:], s.ChainID, s.Scheme, s.Asset[:], s.Payer[:], s.Payee[:], s.Amount, s.Nonce[:], fmt.Sprint(s.ValidAfter), fmt.Sprint(s.ValidBefore),
		string(steps), s.To[:], bytesOf(s.Data), s.GasMax, string(s.Mark), bit(s.Shared), s.Lane[:], string(s.State), instant{&s.AskedAt}, instant{&s.Due},
		s.Since, bit(s.Alone), s.Stage, s.Tries, s.Call, s.From[:], tx, block, blockHash, bit(s.Foreign), s.Gas, s.GasBefore, s.Cost, s.CostBefore,
		s.Code, s.Reason, instant{&s.DoneAt},
	}, nil
}

func (s *session) insertSettlement(x desk.Settlement) error {
	values, err := settlementValues(x)
	if err == nil {
		_, err = s.exec("INSERT INTO settlement ("+settlementColumns+`)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, values...)
	}
	if err != nil {
		return fmt.Errorf("record settlement %s: %w", x.ID.Short(), err)
	}
	return nil
}

// saveSettlement writes what changes in a settlement's life. What was asked for stays, except whether it may share.
func (s *session) saveSettlement(x desk.Settlement) error {
	_, err := settlementValues(x)
	var tx, blockHash, block any
	if !x.Tx.IsZero() {
		tx, block, blockHash = x.Tx[:], x.Block, x.BlockHash[:]
	}
	var n int64
	if err == nil {
		n, err = s.exec(`UPDATE settlement SET state = ?, due = ?, alone = ?, stage = ?, tries = ?, call = ?, from_address = ?, tx = ?, block = ?,
			block_hash = ?, is_foreign = ?, gas = ?, gas_before = ?, cost = ?, cost_before = ?, code = ?, reason = ?, done_at = ? WHERE id = ?`,
			string(x.State), instant{&x.Due}, bit(x.Alone), x.Stage, x.Tries, x.Call, x.From[:], tx, block, blockHash, bit(x.Foreign),
			x.Gas, x.GasBefore, x.Cost, x.CostBefore, x.Code, x.Reason, instant{&x.DoneAt}, x.ID[:])
	}
	if err == nil && n == 0 {
		err = errMissing
	}
	if err != nil {
		return fmt.Errorf("save settlement %s: %w", x.ID.Short(), err)
	}
	return nil
}

func (s *session) settlement(where string, args ...any) (desk.Settlement, bool, error) {
	return first(s.settlements(where, args...))
}

func (s *session) settlements(where string, args ...any) (all []desk.Settlement, err error) {
	err = s.each("SELECT "+settlementColumns+" FROM settlement "+where, args, func(rows *sql.Rows) error {
		x, err := settlement(rows)
		if err == nil {
			err = x.Check()
		}
		if err != nil {
			return corrupt("settlement", x.ID, err)
		}
		all = append(all, x)
		return nil
	})
	return all, err
}

// settlement reads a row of settlementColumns.
func settlement(rows *sql.Rows) (x desk.Settlement, err error) {
	var steps, tx, blockHash []byte
	var block sql.Null[uint64]
	if err := rows.Scan(fixed(x.ID[:]), &x.ChainID, &x.Scheme, fixed(x.Asset[:]), fixed(x.Payer[:]), fixed(x.Payee[:]), &x.Amount, fixed(x.Nonce[:]),
		&x.ValidAfter, &x.ValidBefore, &steps, fixed(x.To[:]), &x.Data, &x.GasMax, &x.Mark, flag{&x.Shared}, fixed(x.Lane[:]), &x.State,
		instant{&x.AskedAt}, instant{&x.Due}, &x.Since, flag{&x.Alone}, &x.Stage, &x.Tries, &x.Call, fixed(x.From[:]), &tx, &block, &blockHash,
		flag{&x.Foreign}, &x.Gas, &x.GasBefore, &x.Cost, &x.CostBefore, &x.Code, &x.Reason, instant{&x.DoneAt}); err != nil {
		return x, err
	}
	if err := json.Unmarshal(steps, &x.Steps); err != nil {
		return x, err
	}
	if len(x.Steps) == 0 {
		x.Steps = nil
	}
	if block.Valid != (tx != nil) || block.Valid != (blockHash != nil) {
		return x, errors.New("transaction and block: only one of them is there")
	}
	if block.Valid {
		x.Block = block.V
		err = errors.Join(fixed(x.Tx[:]).Scan(tx), fixed(x.BlockHash[:]).Scan(blockHash))
	}
	return x, err
}

// Settlements returns the gas desks' view.
func (s *Store) Settlements() desk.Book { return settlements{s} }

// Catalogue keeps what a facilitator has seen sold. It is safe for concurrent use.
type Catalogue struct{ s *Store }

// Catalogue returns a facilitator's view of what it has seen sold.
func (s *Store) Catalogue() *Catalogue { return &Catalogue{s} }

// Put takes an item in, JSON, in place of the one that was known by the name.
func (c *Catalogue) Put(ctx context.Context, name string, item []byte, at time.Time) error {
	if !json.Valid(item) {
		return fmt.Errorf("resource %s: no JSON", name)
	}
	return c.s.write(ctx, func(s *session) error {
		if _, err := s.exec(`INSERT INTO resource (name, item, updated_at) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET item = excluded.item, updated_at = excluded.updated_at`, name, string(item), at.UnixMilli()); err != nil {
			return fmt.Errorf("resource %s: %w", name, err)
		}
		return nil
	})
}

// List returns the items with their names, in the order in which they were first seen.
func (c *Catalogue) List(ctx context.Context) (names []string, items [][]byte, err error) {
	err = c.s.read(ctx, func(s *session) error {
		return s.each("SELECT name, item FROM resource ORDER BY seq", nil, func(rows *sql.Rows) error {
			var name string
			var item []byte
			if err := rows.Scan(&name, &item); err != nil {
				return corrupt("resource", name, err)
			}
			names, items = append(names, name), append(items, item)
			return nil
		})
	})
	return names, items, err
}
