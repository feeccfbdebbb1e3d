package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
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
	if err := s.drain(); err != nil {
		return err
	}
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

// rawRows yields what make makes of the rows that a query returns on PostgreSQL, where it says that there is something, and
// reports whether that was wanted to the end.
func rawRows[R any](t *tx, yield func(R, error) bool, query string, args []any, make func(columns [][]byte) (bool, R, error)) bool {
	err := t.flush() // what this transaction has gathered itself
	if err == nil {
		err = t.rawEach(query, args, func(columns [][]byte) error {
			some, r, err := make(columns)
			if err == nil && some && !yield(r, nil) {
				err = errStop
			}
			return err
		})
	}
	if err != nil && !errors.Is(err, errStop) {
		var none R
		yield(none, err)
	}
	return err == nil
}

// linesAtOnce is Lines on PostgreSQL.
func (t *tx) linesAtOnce(c clearing.CycleRef) iter.Seq2[[]clearing.Line, error] {
	return func(yield func([]clearing.Line, error) bool) {
		page := make([]clearing.Line, 0, linesPage)
		wanted := rawRows(t, yield, "SELECT payer, payee, digest, evidence, payable FROM guarantee WHERE asset = ? AND cycle_start = ?",
			[]any{c.Asset[:], int64(c.Start)}, func(columns [][]byte) (full bool, _ []clearing.Line, err error) {
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
					return false, nil, corrupt("guarantee", l.Digest, err)
				}
				if len(page) < linesPage {
					return false, nil, nil
				}
				all := page
				page = make([]clearing.Line, 0, linesPage)
				return true, all, t.stop()
			})
		if wanted && len(page) > 0 {
			yield(page, nil)
		}
	}
}

// payableByEachAtOnce is PayableByEach on PostgreSQL.
func (t *tx) payableByEachAtOnce(c clearing.CycleRef) iter.Seq2[clearing.PayerSum, error] {
	return func(yield func(clearing.PayerSum, error) bool) {
		rawRows(t, yield, "SELECT payer, payable FROM payer_cycle WHERE asset = ? AND cycle_start = ?", []any{c.Asset[:], int64(c.Start)},
			func(columns [][]byte) (_ bool, s clearing.PayerSum, err error) {
				if err = fixed(s.Payer[:]).set(columns[0]); err == nil {
					s.Payable, err = numeric(columns[1])
				}
				if err != nil {
					return false, s, corrupt("payer_cycle", s.Payer.Lower()+" in "+c.String(), err)
				}
				return true, s, nil
			})
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
	positionsCopied = 5000
	positionsInFile = 64
)

// copyPositions inserts positions on PostgreSQL.
func (t *tx) copyPositions(c clearing.CycleRef, generation uint64, ps []clearing.Position) error {
	var rows copied
	for i := range ps {
		p := &ps[i]
		rows.row(15)
		rows.bytes(c.Asset[:])
		rows.integer(int64(c.Start))
		rows.integer(int64(generation))
		rows.bytes(p.Participant[:])
		rows.integer(int64(p.Index))
		rows.integer(int64(p.Role))
		rows.amount(p.Amount)
		rows.amount(p.Out)
		rows.amount(p.In)
		rows.bytes(p.Statement[:])
		rows.amount(p.Filled)
		rows.integer(bit(p.Flags.Paid))
		rows.integer(bit(p.Flags.Claimed))
		rows.integer(bit(p.Flags.Defaulted))
		rows.amountOrNull(p.Backed)
	}
	if err := t.copyIn("position (asset, cycle_start, generation, "+positionColumns+")", rows); err != nil {
		return fmt.Errorf("table position, key %s: %w", positionKey(c, generation, ps[0].Participant), err)
	}
	return nil
}

// copyIn has PostgreSQL take rows into a table and its columns.
func (s *session) copyIn(table string, rows copied) error {
	if err := s.drain(); err != nil {
		return err
	}
	return s.conn.Raw(func(driver any) error {
		in := io.MultiReader(strings.NewReader("PGCOPY\n\xff\r\n\x00"+"\x00\x00\x00\x00"+"\x00\x00\x00\x00"), bytes.NewReader(rows), strings.NewReader("\xff\xff"))
		_, err := driver.(*stdlib.Conn).Conn().PgConn().CopyFrom(context.Background(), in, "COPY "+table+" FROM STDIN (FORMAT binary)")
		if err != nil {
			return s.fail(err)
		}
		return nil
	})
}

// copied is rows in PostgreSQL's binary form.
type copied []byte

// row begins a row of so many columns.
func (b *copied) row(columns uint16) { *b = binary.BigEndian.AppendUint16(*b, columns) }

func (b *copied) bytes(v []byte) {
	*b = append(binary.BigEndian.AppendUint32(*b, uint32(len(v))), v...)
}

func (b *copied) integer(v int64) {
	*b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(*b, 8), uint64(v))
}

// amount writes what numeric reads.
func (b *copied) amount(a money.Amount) {
	text := a.String()
	text = strings.Repeat("0", (4-len(text)%4)%4) + text
	weight := len(text)/4 - 1
	digits := make([]uint16, 0, 20)
	for group := range slices.Chunk([]byte(text), 4) {
		digits = append(digits, uint16(group[0]-'0')*1000+uint16(group[1]-'0')*100+uint16(group[2]-'0')*10+uint16(group[3]-'0'))
	}
	for len(digits) > 0 && digits[len(digits)-1] == 0 {
		digits = digits[:len(digits)-1]
	}
	out := binary.BigEndian.AppendUint32(*b, uint32(8+2*len(digits)))
	for _, v := range append([]uint16{uint16(len(digits)), uint16(weight), 0, 0}, digits...) {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	*b = out
}

// amountOrNull writes an amount that is almost always nothing.
func (b *copied) amountOrNull(a money.Amount) {
	if a.IsZero() {
		*b = binary.BigEndian.AppendUint32(*b, math.MaxUint32)
	} else {
		b.amount(a)
	}
}

// putPositions inserts positions in a file.
func (t *tx) putPositions(c clearing.CycleRef, generation uint64, ps []clearing.Position) error {
	const values = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	var args []any
	for _, p := range ps {
		args = append(args, c.Asset[:], c.Start, generation, p.Participant[:], p.Index, p.Role, p.Amount, p.Out, p.In, p.Statement[:], p.Filled,
			bit(p.Flags.Paid), bit(p.Flags.Claimed), bit(p.Flags.Defaulted), amountOrNull{&p.Backed})
	}
	return t.put("position", positionKey(c, generation, ps[0].Participant), "INSERT INTO position (asset, cycle_start, generation, "+positionColumns+") VALUES "+values+strings.Repeat(", "+values, len(ps)-1), args...)
}
