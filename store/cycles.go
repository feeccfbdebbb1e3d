package store

import (
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

const cycleColumns = `asset, start, id, status, end_at, cutoff_at, post_deadline, challenge, generation, guarantees, gross, total,
	participants, debtors, root, statements, height, posted, tries, retry_at, sealed_at, final_at, finalized, trouble`

// cycle reads a row of cycleColumns.
func cycle(scan func(...any) error) (c clearing.Cycle, err error) {
	var id evm.Hash
	err = scan(fixed(c.Ref.Asset[:]), &c.Ref.Start, fixed(id[:]), &c.Status, &c.End, &c.CutoffAt, &c.PostDeadline, &c.Challenge,
		&c.Generation, &c.Guarantees, &c.Gross, &c.Total, &c.Participants, &c.Debtors, fixed(c.Root[:]), fixed(c.Statements[:]),
		&c.Height, &c.Posted, &c.Tries, &c.RetryAt, &c.SealedAt, &c.FinalAt, flag{&c.Finalized}, &c.Trouble)
	switch {
	case err != nil:
		return c, err
	case id != c.Ref.ID():
		return c, fmt.Errorf("id %s is not that of %s", id, c.Ref)
	}
	return c, checkCycle(c)
}

// checkCycle refuses a status that nobody knows, which the list of open cycles would show for ever.
func checkCycle(c clearing.Cycle) error {
	switch c.Status {
	case clearing.Open, clearing.Frozen, clearing.Netted, clearing.Committed, clearing.Final, clearing.Closed, clearing.Failed:
		return nil
	}
	return fmt.Errorf("status %q is none", c.Status)
}

// Cycle implements [clearing.Tx].
func (t *tx) Cycle(ref clearing.CycleRef) (clearing.Cycle, bool, error) {
	return t.cycleAt(ref, t.held())
}

// KeptCycle implements [clearing.Tx].
func (t *tx) KeptCycle(ref clearing.CycleRef) (clearing.Cycle, bool, error) {
	return t.cycleAt(ref, t.kept())
}

func (t *tx) cycleAt(ref clearing.CycleRef, lock string) (clearing.Cycle, bool, error) {
	c, found, err := t.cycle(ref, "WHERE asset = ? AND start = ?"+lock, ref.Asset[:], ref.Start)
	t.remember(ref, found, err)
	return c, found, err
}

// CycleByID implements [clearing.Tx].
func (t *tx) CycleByID(id evm.Hash) (clearing.Cycle, bool, error) {
	return t.cycle(id, "WHERE id = ?"+t.held(), id[:])
}

func (t *tx) cycle(key any, where string, args ...any) (c clearing.Cycle, found bool, err error) {
	c, err = cycle(func(dest ...any) (err error) {
		found, err = t.one("SELECT "+cycleColumns+" FROM cycle "+where, args, dest...)
		if err == nil && !found {
			err = sql.ErrNoRows
		}
		return err
	})
	switch {
	case !found && errors.Is(err, sql.ErrNoRows):
		return clearing.Cycle{}, false, nil
	case err != nil:
		return clearing.Cycle{}, false, corrupt("cycle", key, err)
	}
	return c, true, nil
}

// PutCycle implements [clearing.Tx].
func (t *tx) PutCycle(c clearing.Cycle) error {
	if err := checkCycle(c); err != nil {
		return fmt.Errorf("cycle %s: %w", c.Ref, err)
	}
	id := c.Ref.ID()
	return t.upsert("cycle", c.Ref, c.Ref, `INSERT INTO cycle (`+cycleColumns+`)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, `
		ON CONFLICT (asset, start) DO UPDATE SET
			status = excluded.status, end_at = excluded.end_at, cutoff_at = excluded.cutoff_at,
			post_deadline = excluded.post_deadline, challenge = excluded.challenge, generation = excluded.generation,
			guarantees = excluded.guarantees, gross = excluded.gross, total = excluded.total,
			participants = excluded.participants, debtors = excluded.debtors, root = excluded.root,
			statements = excluded.statements, height = excluded.height, posted = excluded.posted, tries = excluded.tries,
			retry_at = excluded.retry_at, sealed_at = excluded.sealed_at, final_at = excluded.final_at,
			finalized = excluded.finalized, trouble = excluded.trouble`,
		c.Ref.Asset[:], c.Ref.Start, id[:], string(c.Status), c.End, c.CutoffAt, c.PostDeadline, c.Challenge,
		c.Generation, c.Guarantees, c.Gross, c.Total, c.Participants, c.Debtors, c.Root[:], c.Statements[:],
		c.Height, c.Posted, c.Tries, c.RetryAt, c.SealedAt, c.FinalAt, bit(c.Finalized), c.Trouble)
}

// Cycles implements [clearing.Tx].
func (t *tx) Cycles(asset evm.Address, open bool, limit int) (all []clearing.Cycle, err error) {
	where := "WHERE asset = ?"
	if open {
		where += " AND status <> 'closed'"
	}
	return t.cycles(where, asset[:], limitOf(limit))
}

// CyclesBefore implements [clearing.Tx].
func (t *tx) CyclesBefore(asset evm.Address, start uint64, limit int) ([]clearing.Cycle, error) {
	if start == 0 {
		return t.Cycles(asset, false, limit)
	}
	return t.cycles("WHERE asset = ? AND start < ?", asset[:], start, limit)
}

// cycles returns the newest first. The last of the arguments is how many at most.
func (t *tx) cycles(where string, args ...any) (all []clearing.Cycle, err error) {
	err = t.each("SELECT "+cycleColumns+" FROM cycle "+where+" ORDER BY start DESC LIMIT ?", args, func(rows *sql.Rows) error {
		c, err := cycle(rows.Scan)
		if err != nil {
			return corrupt("cycle", c.Ref, err)
		}
		all = append(all, c)
		return nil
	})
	return all, err
}

// limitOf turns the limit that means none into one that no table reaches.
func limitOf(n int) int64 {
	if n <= 0 {
		return math.MaxInt64
	}
	return int64(n)
}

const positionColumns = "participant, place, role, amount, gross_out, gross_in, statement, filled, paid, claimed, defaulted, backed"

// position reads a row of positionColumns.
func position(scan func(...any) error) (p clearing.Position, err error) {
	err = scan(fixed(p.Participant[:]), &p.Index, &p.Role, &p.Amount, &p.Out, &p.In, fixed(p.Statement[:]), &p.Filled,
		flag{&p.Flags.Paid}, flag{&p.Flags.Claimed}, flag{&p.Flags.Defaulted}, amountOrNull{&p.Backed})
	if err != nil {
		return p, err
	}
	return p, checkPosition(p)
}

// checkPosition refuses a role that no tree has, and an amount that does not go with it.
func checkPosition(p clearing.Position) error {
	if p.Role > clearing.Flat {
		return fmt.Errorf("role %d is none", p.Role)
	}
	if (p.Role == clearing.Flat) != p.Amount.IsZero() {
		return fmt.Errorf("role %d with amount %s", p.Role, p.Amount)
	}
	return nil
}

func positionKey(c clearing.CycleRef, generation uint64, participant evm.Address) string {
	return fmt.Sprintf("%s of %s, generation %d", participant.Lower(), c, generation)
}

// PutPositions implements [clearing.Tx].
func (t *tx) PutPositions(c clearing.CycleRef, generation uint64, ps []clearing.Position) error {
	if err := t.put("position", c, "DELETE FROM position WHERE asset = ? AND cycle_start = ? AND generation = ?", c.Asset[:], c.Start, generation); err != nil {
		return err
	}
	for _, p := range ps {
		if err := checkPosition(p); err != nil {
			return fmt.Errorf("position %s: %w", positionKey(c, generation, p.Participant), err)
		}
	}
	most, put := positionsInFile, t.putPositions
	if t.dialect.locks {
		most, put = positionsCopied, t.copyPositions
	}
	for part := range slices.Chunk(ps, most) {
		if err := put(c, generation, part); err != nil {
			return err
		}
	}
	return nil
}

// Positions implements [clearing.Tx].
func (t *tx) Positions(c clearing.CycleRef, generation uint64) (all []clearing.Position, err error) {
	err = t.each("SELECT "+positionColumns+" FROM position WHERE asset = ? AND cycle_start = ? AND generation = ? ORDER BY place",
		[]any{c.Asset[:], c.Start, generation}, func(rows *sql.Rows) error {
			p, err := position(rows.Scan)
			if err != nil {
				return corrupt("position", positionKey(c, generation, p.Participant), err)
			}
			all = append(all, p)
			return nil
		})
	return all, err
}

// Position implements [clearing.Tx].
func (t *tx) Position(c clearing.CycleRef, generation uint64, participant evm.Address) (p clearing.Position, found bool, err error) {
	p, err = position(func(dest ...any) (err error) {
		found, err = t.one("SELECT "+positionColumns+" FROM position WHERE asset = ? AND cycle_start = ? AND generation = ? AND participant = ?",
			[]any{c.Asset[:], c.Start, generation, participant[:]}, dest...)
		if err == nil && !found {
			err = sql.ErrNoRows
		}
		return err
	})
	switch {
	case !found && errors.Is(err, sql.ErrNoRows):
		return clearing.Position{}, false, nil
	case err != nil:
		return clearing.Position{}, false, corrupt("position", positionKey(c, generation, participant), err)
	}
	return p, true, nil
}

// Unsettled implements [clearing.Tx]. The condition is word for word that of the index position_unsettled.
func (t *tx) Unsettled(asset, participant evm.Address, limit int) (all []clearing.CycleRef, err error) {
	err = t.each(`SELECT p.cycle_start FROM position p JOIN cycle c ON c.asset = p.asset AND c.start = p.cycle_start AND c.generation = p.generation
		WHERE p.participant = ? AND p.asset = ? AND ((p.role = 0 AND p.paid = 0 AND p.defaulted = 0) OR (p.role = 1 AND p.claimed = 0))
		ORDER BY p.cycle_start DESC LIMIT ?`,
		[]any{participant[:], asset[:], limitOf(limit)}, func(rows *sql.Rows) error {
			ref := clearing.CycleRef{Asset: asset}
			if err := rows.Scan(&ref.Start); err != nil {
				return corrupt("position", positionKey(ref, 0, participant), err)
			}
			all = append(all, ref)
			return nil
		})
	return all, err
}

// MarkPosition implements [clearing.Tx].
func (t *tx) MarkPosition(c clearing.CycleRef, generation uint64, participant evm.Address, filled money.Amount, flags clearing.PositionFlags) error {
	key := positionKey(c, generation, participant)
	return t.change("position", key, `UPDATE position SET filled = ?, paid = ?, claimed = ?, defaulted = ?
		WHERE asset = ? AND cycle_start = ? AND generation = ? AND participant = ?`,
		filled, bit(flags.Paid), bit(flags.Claimed), bit(flags.Defaulted), c.Asset[:], c.Start, generation, participant[:])
}

// Schedules implements [clearing.Tx].
func (t *tx) Schedules(asset evm.Address) (all []clearing.Schedule, err error) {
	err = t.each("SELECT from_start, length, cutoff, post, challenge, repost, redeem FROM schedule WHERE asset = ? ORDER BY from_start"+t.kept(),
		[]any{asset[:]}, func(rows *sql.Rows) error {
			s := clearing.Schedule{Asset: asset}
			if err := rows.Scan(&s.From, &s.Length, &s.Cutoff, &s.Post, &s.Challenge, &s.Repost, &s.Redeem); err != nil {
				return corrupt("schedule", fmt.Sprintf("%s from %d", asset.Lower(), s.From), err)
			}
			all = append(all, s)
			return nil
		})
	return all, err
}

// PutSchedule implements [clearing.Tx].
func (t *tx) PutSchedule(s clearing.Schedule) error {
	if err := t.holdSchedules(s.Asset); err != nil {
		return err
	}
	return t.put("schedule", fmt.Sprintf("%s from %d", s.Asset.Lower(), s.From),
		`INSERT INTO schedule (asset, from_start, length, cutoff, post, challenge, repost, redeem) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (asset, from_start) DO UPDATE SET length = excluded.length, cutoff = excluded.cutoff, post = excluded.post,
			challenge = excluded.challenge, repost = excluded.repost, redeem = excluded.redeem`,
		s.Asset[:], s.From, s.Length, s.Cutoff, s.Post, s.Challenge, s.Repost, s.Redeem)
}

// holdSchedules waits for those who rely on an asset's schedules, and keeps others from relying on them.
func (t *tx) holdSchedules(asset evm.Address) error {
	if !t.dialect.locks {
		return nil
	}
	return t.each("SELECT from_start FROM schedule WHERE asset = ?"+t.held(), []any{asset[:]}, func(*sql.Rows) error { return nil })
}

// DropSchedule implements [clearing.Tx].
func (t *tx) DropSchedule(asset evm.Address, from uint64) error {
	if err := t.holdSchedules(asset); err != nil {
		return err
	}
	return t.put("schedule", fmt.Sprintf("%s from %d", asset.Lower(), from), "DELETE FROM schedule WHERE asset = ? AND from_start = ?", asset[:], from)
}

// Assets implements [clearing.Tx].
func (t *tx) Assets() (all []evm.Address, err error) {
	err = t.each("SELECT DISTINCT asset FROM schedule ORDER BY asset", nil, func(rows *sql.Rows) error {
		var a evm.Address
		if err := rows.Scan(fixed(a[:])); err != nil {
			return corrupt("schedule", "asset", err)
		}
		all = append(all, a)
		return nil
	})
	return all, err
}
