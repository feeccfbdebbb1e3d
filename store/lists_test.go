package store

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
)

// Lists are read from indexes, in their order: no table is scanned and nothing is sorted, however much there is. PostgreSQL plans by what it has counted, so SQLite is asked.
func TestListsAreReadFromIndexes(t *testing.T) {
	t.Parallel()
	s := sqliteFile.fresh(t)
	who := evm.Address{1}
	for name, q := range map[string]clearing.Listing{
		"of a payer": {Payer: &who}, "of a payee": {Payee: &who}, "of a cycle": {InCycle: true, Start: 1},
		"of a payee in a cycle, further": {Payee: &who, InCycle: true, Start: 1, Before: clearing.Place{Start: 1, Seq: 1}},
		"of a payer, further":            {Payer: &who, Before: clearing.Place{Start: 1, Seq: 1}},
		"of a payee, that wait":          {Payee: &who, Before: clearing.Place{Seq: 1}},
	} {
		query, args := listQuery(q, 10, q.Before.Start == 0 && q.Before.Seq > 0)
		err := s.read(t.Context(), func(r *session) error {
			return r.each("EXPLAIN QUERY PLAN "+query, args, func(rows *sql.Rows) error {
				var id, parent, unused int
				var step string
				if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
					return err
				}
				if !strings.HasPrefix(step, "SEARCH ") {
					t.Errorf("%s: %s", name, step)
				}
				return nil
			})
		})
		if err != nil {
			t.Error(err)
		}
	}
}
