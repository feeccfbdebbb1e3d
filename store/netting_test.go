package store

import (
	"testing"

	"github.com/farthing402/farthing/money"
)

// Numbers are read as the server sends them, whatever they are.
func TestNumbersOfPostgreSQL(t *testing.T) {
	t.Parallel()
	s := postgresServer.fresh(t)
	for _, text := range []string{
		"0", "1", "9999", "10000", "10001", "100000000", "99990000", "1234567890123456", "9999999999999999", "10000000000000000",
		"340282366920938463463374607431768211455", "100000000000000000000000000000000000000", money.MaxAmount().String(),
	} {
		err := s.read(t.Context(), func(s *session) error {
			return s.rawEach("SELECT CAST(? AS NUMERIC(78,0))", []any{text}, func(columns [][]byte) error {
				got, err := numeric(columns[0])
				if err != nil || got.String() != text {
					t.Errorf("%s is read as %s, %v", text, got, err)
				}
				var written copied
				if written.amount(got); string(written[4:]) != string(columns[0]) {
					t.Errorf("%s is written as %x, want %x", text, written[4:], columns[0])
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "cut off": {0, 1, 0, 0, 0, 0, 0, 0}, "negative": {0, 1, 0, 0, 0x40, 0, 0, 0, 0, 1}, "not a number": {0, 0, 0, 0, 0xc0, 0, 0, 0},
		"a fraction": {0, 1, 0xff, 0xff, 0, 0, 0, 4, 0, 1},
	} {
		if got, err := numeric(b); err == nil {
			t.Errorf("%s is read as %s", name, got)
		}
	}
}
