package store

import (
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/farthing402/farthing/money"
)

// fixed reads a column into the array behind it, and refuses any other length.
type fixed []byte

// Scan implements sql.Scanner.
func (f fixed) Scan(src any) error {
	b, ok := src.([]byte)
	if !ok {
		return fmt.Errorf("%T, want %d bytes", src, len(f))
	}
	return f.set(b)
}

func (f fixed) set(b []byte) error {
	if len(b) != len(f) {
		return fmt.Errorf("%d bytes, want %d", len(b), len(f))
	}
	copy(f, b)
	return nil
}

// flag reads a column that is 0 or 1.
type flag struct{ to *bool }

// Scan implements sql.Scanner.
func (f flag) Scan(src any) error {
	n, ok := src.(int64)
	if !ok || n < 0 || n > 1 {
		return fmt.Errorf("%v is neither 0 nor 1", src)
	}
	*f.to = n == 1
	return nil
}

// bit is how a flag is written.
func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// amountOrNull reads and writes an amount that is almost always nothing, which it keeps as null.
type amountOrNull struct{ *money.Amount }

// Value implements driver.Valuer.
func (a amountOrNull) Value() (driver.Value, error) {
	if a.IsZero() {
		return nil, nil
	}
	return a.Amount.Value()
}

// Scan implements sql.Scanner.
func (a amountOrNull) Scan(src any) error {
	if src == nil {
		*a.Amount = money.Amount{}
		return nil
	}
	return a.Amount.Scan(src)
}

// instant reads and writes a time as unix nanoseconds, and the zero time as null.
type instant struct{ *time.Time }

// Value implements driver.Valuer.
func (i instant) Value() (driver.Value, error) {
	if i.IsZero() {
		return nil, nil
	}
	if n := i.UnixNano(); time.Unix(0, n).Equal(*i.Time) {
		return n, nil
	}
	return nil, fmt.Errorf("time %s is out of range", i.Time)
}

// Scan implements sql.Scanner.
func (i instant) Scan(src any) error {
	switch n := src.(type) {
	case nil:
		*i.Time = time.Time{}
	case int64:
		*i.Time = time.Unix(0, n).UTC()
	default:
		return fmt.Errorf("%T is no time", src)
	}
	return nil
}
