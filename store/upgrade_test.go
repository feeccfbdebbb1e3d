package store

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// at makes a database as it was when it had so many migrations, and runs statements on it.
func at(t *testing.T, version int, statements ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "book.db")
	db, err := sql.Open("sqlite", sqliteSource(path, true))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	steps, err := migrations(migrationFiles, "migrations")
	if err == nil {
		err = useWAL(t.Context(), db)
	}
	if err == nil {
		err = apply(t.Context(), &sqliteDialect, conn, steps[:version])
	}
	for _, statement := range statements {
		if err == nil {
			_, err = conn.ExecContext(t.Context(), statement)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Purchases that were written before there were other ways to pay than a guarantee stay what they are, and end as they
// would have.
func TestPurchasesOfSchema1AreKept(t *testing.T) {
	t.Parallel()
	states := []purchase.State{purchase.Reserved, purchase.Running, purchase.Pending, purchase.Committed, purchase.Void}
	var statements []string
	var want []purchase.Purchase
	for i, state := range states {
		n := byte(i + 1)
		p := purchase.Purchase{
			ID: fmt.Sprintf("p_%d", n), Payment: evm.Hash{n}, Request: evm.Hash{n, 1}, State: state, Route: "GET /", Method: "GET",
			URL: "http://x/", Way: "4mica-credit", Network: "eip155:31337", Asset: evm.Address{n, 2}, Payer: evm.Address{n, 3}, Payee: evm.Address{n, 4},
			Cap: money.Units(5), Unit: "call", Certificate: []byte("{}"), ReservedAt: noon.Add(time.Duration(n)), RunAt: noon.Add(9),
		}
		charged, answer := "0", ""
		if state == purchase.Committed {
			p.Charged, charged = money.Units(4), "4"
			p.Proof, p.Units, p.Outcome, p.DoneAt = []byte(`{"note":1}`), 7, "slow", noon.Add(time.Minute)
			p.Answer = &purchase.Answer{Status: 200, Header: map[string][]string{"A": {"b"}}, Body: []byte("body"), Whole: true}
			answer = fmt.Sprintf(`; INSERT INTO answer VALUES ('p_%d', 200, '{"A":["b"]}', CAST('body' AS BLOB), 1, %d)`, n, p.DoneAt.UnixNano())
		}
		done, proof, units, outcome := "NULL", "NULL", 0, ""
		if state == purchase.Committed {
			done, proof, units, outcome = fmt.Sprint(p.DoneAt.UnixNano()), `CAST('{"note":1}' AS BLOB)`, 7, "slow"
		}
		hex := func(b []byte) string { return fmt.Sprintf("x'%x'", b) }
		statements = append(statements, fmt.Sprintf(`INSERT INTO purchase (payment, id, request, state, route, method, url, way, network, asset, payer, payee,
			cap, charged, units, unit, cost, downstream, outcome, certificate, proof, proof_done, reserved_at, run_at, done_at)
			VALUES (%s, '%s', %s, '%s', 'GET /', 'GET', 'http://x/', '4mica-credit', 'eip155:31337', %s, %s, %s,
			'5', '%s', %d, 'call', '0', '0', '%s', CAST('{}' AS BLOB), %s, 0, %d, %d, %s)%s`,
			hex(p.Payment[:]), p.ID, hex(p.Request[:]), state, hex(p.Asset[:]), hex(p.Payer[:]), hex(p.Payee[:]),
			charged, units, outcome, proof, p.ReservedAt.UnixNano(), p.RunAt.UnixNano(), done, answer))
		want = append(want, p)
	}
	path := at(t, 1, statements...)
	for range 2 { // the second time there is nothing left to do
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range want {
			if got, found, err := s.Purchases().Find(t.Context(), p.Payment); err != nil || !found || !reflect.DeepEqual(got, p) {
				t.Errorf("got  %+v, %v, %v\nwant %+v", got, found, err, p)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b := reopen(t, path).Purchases()
	all, err := b.Unfinished(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("%d unfinished, %v", len(all), err)
	}
	for _, p := range all {
		p.State = purchase.Void
		if err := b.Finish(t.Context(), p); err != nil {
			t.Errorf("%s: %v", p.ID, err)
		}
	}
	if notes, err := b.Undelivered(t.Context(), 9); err != nil || len(notes) != 1 || notes[0].ID != "p_4" {
		t.Errorf("undelivered: %v, %v", notes, err)
	}
}
