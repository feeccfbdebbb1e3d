package store

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/farthing402/farthing/clearing"
)

func blockKey(stream clearing.Stream, number uint64) string {
	return fmt.Sprintf("%s %d", stream, number)
}

// AloneOn implements [clearing.Tx].
func (t *tx) AloneOn(stream clearing.Stream) error { return t.lock("blocks/" + string(stream)) }

// Blocks implements [clearing.Tx].
func (t *tx) Blocks(stream clearing.Stream, limit int) (all []clearing.Block, err error) {
	if limit <= 0 {
		return nil, nil
	}
	err = t.each("SELECT number, hash, time FROM block WHERE stream = ? ORDER BY number DESC LIMIT ?", []any{string(stream), limit}, func(rows *sql.Rows) error {
		var b clearing.Block
		if err := rows.Scan(&b.Number, fixed(b.Hash[:]), &b.Time); err != nil {
			return corrupt("block", blockKey(stream, b.Number), err)
		}
		all = append(all, b)
		return nil
	})
	return all, err
}

const eventColumns = `kind, tx_hash, log_index, account, asset, amount, cycle, root, generation, chunk, time, is_on, schedule, ignored, undo`

// PutBlock implements [clearing.Tx].
func (t *tx) PutBlock(stream clearing.Stream, b clearing.Block, events []clearing.Event) error {
	if newest, err := t.Blocks(stream, 1); err != nil {
		return err
	} else if len(newest) == 1 && newest[0].Number >= b.Number {
		return fmt.Errorf("block %s: the stream is at %d", blockKey(stream, b.Number), newest[0].Number)
	}
	if err := t.put("block", blockKey(stream, b.Number), "INSERT INTO block (stream, number, hash, time) VALUES (?, ?, ?, ?)",
		string(stream), b.Number, b.Hash[:], b.Time); err != nil {
		return err
	}
	for i := range events {
		e := &events[i]
		var schedule any
		if e.Schedule != nil {
			text, err := json.Marshal(e.Schedule)
			if err != nil {
				return fmt.Errorf("event %s/%d: schedule: %w", blockKey(stream, b.Number), i, err)
			}
			schedule = string(text)
		}
		if err := t.put("event", fmt.Sprintf("%s/%d", blockKey(stream, b.Number), i), `INSERT INTO event (stream, number, place, `+eventColumns+`)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			string(stream), b.Number, i, string(e.Kind), e.TxHash[:], e.LogIndex, e.Account[:], e.Asset[:], e.Amount, e.Cycle[:], e.Root[:],
			e.Generation, e.Chunk, e.Time, bit(e.On), schedule, e.Ignored, e.Undo); err != nil {
			return err
		}
	}
	return nil
}

// DropBlock implements [clearing.Tx].
func (t *tx) DropBlock(stream clearing.Stream, number uint64) (events []clearing.Event, err error) {
	switch newest, err := t.Blocks(stream, 1); {
	case err != nil:
		return nil, err
	case len(newest) == 0:
		return nil, fmt.Errorf("drop block %s: the stream is empty", blockKey(stream, number))
	case newest[0].Number != number:
		return nil, fmt.Errorf("drop block %s: the stream is at %d", blockKey(stream, number), newest[0].Number)
	}
	place := 0
	err = t.each("SELECT "+eventColumns+" FROM event WHERE stream = ? AND number = ? ORDER BY place", []any{string(stream), number}, func(rows *sql.Rows) error {
		var e clearing.Event
		if err := scanEvent(rows, &e); err != nil {
			return corrupt("event", fmt.Sprintf("%s/%d", blockKey(stream, number), place), err)
		}
		events = append(events, e)
		place++
		return nil
	})
	if err != nil {
		return nil, err
	}
	_, err1 := t.exec("DELETE FROM event WHERE stream = ? AND number = ?", string(stream), number)
	_, err2 := t.exec("DELETE FROM block WHERE stream = ? AND number = ?", string(stream), number)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("drop block %s: %w", blockKey(stream, number), err)
	}
	return events, nil
}

// scanEvent reads a row of other columns and eventColumns.
func scanEvent(rows *sql.Rows, e *clearing.Event, others ...any) error {
	var schedule sql.NullString
	err := rows.Scan(append(others, &e.Kind, fixed(e.TxHash[:]), &e.LogIndex, fixed(e.Account[:]), fixed(e.Asset[:]), &e.Amount, fixed(e.Cycle[:]), fixed(e.Root[:]),
		&e.Generation, &e.Chunk, &e.Time, flag{&e.On}, &schedule, &e.Ignored, &e.Undo)...)
	if err == nil && schedule.Valid {
		e.Schedule = new(clearing.Schedule)
		err = json.Unmarshal([]byte(schedule.String), e.Schedule)
	}
	return err
}

// PruneBlocks implements [clearing.Tx]. Blocks that webhooks are still to be made of stay.
func (t *tx) PruneBlocks(stream clearing.Stream, number uint64) error {
	number = min(number, math.MaxInt64) // beyond which there is no block
	if stream == clearing.Confirmed {
		if c, found, err := t.cursor(); err != nil {
			return err
		} else if found {
			number = min(number, c.Block.Number)
		}
	}
	_, err1 := t.exec("DELETE FROM event WHERE stream = ? AND number < ?", string(stream), number)
	_, err2 := t.exec("DELETE FROM block WHERE stream = ? AND number < ?", string(stream), number)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("prune blocks of %s before %d: %w", stream, number, err)
	}
	return nil
}
