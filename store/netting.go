package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/money"
)

// A million rows are read and a hundred thousand written while a cycle closes, so both are done below database/sql, which
// makes values of every column, or with many rows to a statement.

// rawEach calls scan for every row that a query returns on PostgreSQL, with its columns as the server sends them. They are
// good until scan returns.
func (s *session) rawEach(query string, args []any, scan func(columns [][]byte) error) error {
	return s.conn.Raw(func(driver any) error {
		rows, err := driver.(*stdlib.Conn).Conn().Query(context.Background(), s.dialect.rebind(query), args...)
		if err != nil {
			return queryError{s.fail(err)}
		}
		defer rows.Close()
		for rows.Next() {
			if err := scan(rows.RawValues()); err != nil {
				return err
			}
		}
		if err := rows.Err(); err != nil {
			return queryError{s.fail(err)}
		}
		return nil
	})
}

// errStop ends a query whose rows nobody wants any more.
var errStop = errors.New("no more rows are wanted")

// linesAtOnce is Lines on PostgreSQL.
func (t *tx) linesAtOnce(c clearing.CycleRef) iter.Seq2[[]clearing.Line, error] {
	return func(yield func([]clearing.Line, error) bool) {
		if err := t.flush(); err != nil {
			yield(nil, err)
			return
		}
		page := make([]clearing.Line, 0, linesPage)
		err := t.rawEach("SELECT payer, payee, digest, evidence, payable FROM guarantee WHERE asset = ? AND cycle_start = ?",
			[]any{c.Asset[:], int64(c.Start)}, func(columns [][]byte) (err error) {
				page = append(page, clearing.Line{})
				l := &page[len(page)-1]
				err = fixed(l.Payer[:]).set(columns[0])
				if err == nil {
					err = fixed(l.Payee[:]).set(columns[1])
				}
				if err == nil {
					err = fixed(l.Digest[:]).set(columns[2])
				}
				if err == nil && columns[3] != nil {
					err = fixed(l.Evidence[:]).set(columns[3])
				}
				if err == nil {
					l.Payable, err = numeric(columns[4])
				}
				if err != nil {
					return corrupt("guarantee", l.Digest, err)
				}
				if len(page) < linesPage {
					return nil
				}
				if err := t.stop(); err != nil {
					return err
				}
				if !yield(page, nil) {
					return errStop
				}
				page = make([]clearing.Line, 0, linesPage)
				return nil
			})
		switch {
		case errors.Is(err, errStop):
		case err != nil:
			yield(nil, err)
		case len(page) > 0:
			yield(page, nil)
		}
	}
}

// numeric reads a whole number as PostgreSQL sends it: how many digits there are, to the base of 10,000, the power of the
// first one, sign and scale, and the digits. Trailing zeros are not sent.
func numeric(b []byte) (money.Amount, error) {
	if len(b) < 8 {
		return money.Amount{}, fmt.Errorf("number of %d bytes", len(b))
	}
	digits, weight := int(binary.BigEndian.Uint16(b)), int(int16(binary.BigEndian.Uint16(b[2:])))
	if sign := binary.BigEndian.Uint16(b[4:]); sign != 0 || len(b) != 8+2*digits || digits > weight+1 && digits > 0 {
		return money.Amount{}, errors.New("number is not whole, or not of this form")
	}
	const few = 4 // digits that fit a word together
	if digits == 0 || weight < few {
		var n uint64
		for i := range weight + 1 {
			n *= 10_000
			if i < digits {
				n += uint64(binary.BigEndian.Uint16(b[8+2*i:]))
			}
		}
		return money.Units(n), nil
	}
	var text strings.Builder
	for i := range weight + 1 {
		var digit uint16
		if i < digits {
			digit = binary.BigEndian.Uint16(b[8+2*i:])
		}
		fmt.Fprintf(&text, "%04d", digit)
	}
	return money.ParseAmount(text.String())
}

// Many positions are written with one statement, no more than SQLite takes values in one.
const (
	positionsAtOnce = 5000
	positionsInFile = 64
)

const positionInsert = "INSERT INTO position (asset, cycle_start, generation, " + positionColumns + ")"

// putPositionsAtOnce inserts positions on PostgreSQL.
func (t *tx) putPositionsAtOnce(c clearing.CycleRef, generation uint64, ps []clearing.Position) error {
	type row = clearing.Position
	return t.put("position", positionKey(c, generation, ps[0].Participant), positionInsert+`
		SELECT ?, ?, ?, participant, place, role, amount::numeric, gross_out::numeric, gross_in::numeric, statement, filled::numeric, paid, claimed, defaulted, backed::numeric
		FROM unnest(?::bytea[], ?::bigint[], ?::bigint[], ?::text[], ?::text[], ?::text[], ?::bytea[], ?::text[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[])
			AS new (`+positionColumns+`)`,
		c.Asset[:], c.Start, generation,
		column(ps, func(p *row) []byte { return p.Participant[:] }),
		column(ps, func(p *row) uint64 { return p.Index }),
		column(ps, func(p *row) int64 { return int64(p.Role) }),
		column(ps, func(p *row) string { return p.Amount.String() }),
		column(ps, func(p *row) string { return p.Out.String() }),
		column(ps, func(p *row) string { return p.In.String() }),
		column(ps, func(p *row) []byte { return p.Statement[:] }),
		column(ps, func(p *row) string { return p.Filled.String() }),
		column(ps, func(p *row) int64 { return bit(p.Flags.Paid) }),
		column(ps, func(p *row) int64 { return bit(p.Flags.Claimed) }),
		column(ps, func(p *row) int64 { return bit(p.Flags.Defaulted) }),
		column(ps, func(p *row) *string { return textOrNull(p.Backed) }))
}

// putPositions inserts positions in a file.
func (t *tx) putPositions(c clearing.CycleRef, generation uint64, ps []clearing.Position) error {
	const values = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	var args []any
	for _, p := range ps {
		args = append(args, c.Asset[:], c.Start, generation, p.Participant[:], p.Index, p.Role, p.Amount, p.Out, p.In, p.Statement[:], p.Filled,
			bit(p.Flags.Paid), bit(p.Flags.Claimed), bit(p.Flags.Defaulted), amountOrNull{&p.Backed})
	}
	return t.put("position", positionKey(c, generation, ps[0].Participant), positionInsert+" VALUES "+values+strings.Repeat(", "+values, len(ps)-1), args...)
}
