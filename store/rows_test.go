package store

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// full returns a store with one row of everything.
func full(t *testing.T, db database) (*Store, clearing.Guarantee) {
	t.Helper()
	s := db.fresh(t)
	g := promise(address(1), address(2), 7)
	note := guarantee.SignedNote{Note: guarantee.Note{Digest: g.Digest, Amount: money.Units(3), Reason: evm.Keccak256([]byte("late"))}}
	note.Signature[64] = 28
	g.Payable, g.Note = note.Amount, &note
	ref := g.Cycle
	err := s.Clearing().Write(t.Context(), func(tx clearing.Tx) error {
		return errors.Join(
			tx.PutAccount(clearing.Account{Owner: address(1), Asset: ref.Asset}),
			tx.PutBalance(ledger.Account{Kind: ledger.World, Asset: ref.Asset}, ledger.Balance{}),
			tx.AddGuarantee(g),
			tx.PutCycle(clearing.Cycle{Ref: ref, Status: clearing.Open}),
			tx.PutPositions(ref, 0, []clearing.Position{{Participant: address(1), Amount: money.Units(3), Out: money.Units(3)}}),
			tx.PutSchedule(clearing.Schedule{Asset: ref.Asset, From: 1, Length: 60}),
			tx.PutBlock(clearing.Head, clearing.Block{Number: 1}, []clearing.Event{{Kind: clearing.ScheduleSet, Schedule: &clearing.Schedule{Length: 60}}}),
		)
	})
	p := reservation("p_1", evm.Hash{1})
	_, errReserve := s.Purchases().Reserve(t.Context(), p)
	p.State, p.Charged, p.DoneAt = purchase.Committed, p.Cap, noon
	p.Answer = &purchase.Answer{Status: 200, Body: []byte("body"), Whole: true}
	o := s.Outbox()
	_, errSecret := s.Purchases().Secret(t.Context())
	if err := errors.Join(err, errReserve, errSecret,
		s.Purchases().Run(t.Context(), p.ID, nil, noon), s.Purchases().Finish(t.Context(), p),
		o.Enqueue(t.Context(), evm.Call{ID: "call", From: address(1)}),
		o.RecordAttempt(t.Context(), "call", evm.Attempt{Nonce: 4}),
		o.Finish(t.Context(), "call", &evm.CallReceipt{BlockNumber: 9, OK: true}, ""),
		bundleOf(t.Context(), s.Purchases(), 5),
	); err != nil {
		t.Fatal(err)
	}
	_, errTransfer := s.Purchases().Refund(t.Context(), purchase.Refund{Purchase: "p_buyer", Kind: purchase.ByTransfer, Amount: money.Units(4), Calls: 4})
	_, errCredit := s.Purchases().Refund(t.Context(), purchase.Refund{Purchase: "p_1", Kind: purchase.ByCredit, Amount: money.Units(5)})
	if err := errors.Join(errTransfer, errCredit); err != nil {
		t.Fatal(err)
	}
	return s, g
}

// Whatever somebody did to the file by hand is found when it is read, and named; nothing panics.
func TestCorruptRowsAreNamed(t *testing.T) { onEach(t, testCorruptRowsAreNamed) }

func testCorruptRowsAreNamed(t *testing.T, db database) {
	g := promise(address(1), address(2), 7)
	ref := g.Cycle
	inTx := func(fn func(clearing.Tx) error) func(*Store) error {
		return func(s *Store) error { return s.Clearing().Write(context.Background(), fn) }
	}
	account := inTx(func(tx clearing.Tx) error { _, err := tx.Account(address(1), ref.Asset); return err })
	balances := inTx(func(tx clearing.Tx) error {
		for _, err := range tx.Balances(ref.Asset) {
			if err != nil {
				return err
			}
		}
		return nil
	})
	byKey := inTx(func(tx clearing.Tx) error { _, _, err := tx.GuaranteeByKey(g.Signed.Claims.Key()); return err })
	ofCycle := inTx(func(tx clearing.Tx) error {
		for _, err := range tx.Guarantees(ref) {
			if err != nil {
				return err
			}
		}
		return nil
	})
	payable := inTx(func(tx clearing.Tx) error { _, err := tx.PayableBy(ref, address(1)); return err })
	cycle := inTx(func(tx clearing.Tx) error { _, _, err := tx.Cycle(ref); return err })
	cycles := inTx(func(tx clearing.Tx) error { _, err := tx.Cycles(ref.Asset, true, 0); return err })
	position := inTx(func(tx clearing.Tx) error { _, _, err := tx.Position(ref, 0, address(1)); return err })
	positions := inTx(func(tx clearing.Tx) error { _, err := tx.Positions(ref, 0); return err })
	schedules := inTx(func(tx clearing.Tx) error { _, err := tx.Schedules(ref.Asset); return err })
	blocks := inTx(func(tx clearing.Tx) error { _, err := tx.Blocks(clearing.Head, 1); return err })
	drop := inTx(func(tx clearing.Tx) error { _, err := tx.DropBlock(clearing.Head, 1); return err })
	callState := inTx(func(tx clearing.Tx) error { _, _, err := tx.CallState("call"); return err })
	call := func(s *Store) error { _, err := s.Outbox().Find(context.Background(), "call"); return err }
	bought := func(s *Store) error { _, _, err := s.Purchases().FindID(context.Background(), "p_1"); return err }
	bundled := func(s *Store) error { _, _, err := s.Purchases().FindID(context.Background(), "p_buyer"); return err }
	bundle := func(s *Store) error {
		_, _, err := s.Purchases().FindBundle(context.Background(), "p_buyer")
		return err
	}
	bundles := func(s *Store) error {
		_, err := s.Purchases().Bundles(context.Background(), address(1), address(2))
		return err
	}
	refund := func(s *Store) error {
		_, _, err := s.Purchases().FindRefund(context.Background(), "p_buyer")
		return err
	}
	refunds := func(s *Store) error { _, err := s.Purchases().OpenRefunds(context.Background()); return err }
	credit := func(s *Store) error {
		p := callOf("x")
		_, err := s.Purchases().Credit(context.Background(), evm.Address{}, evm.Address{}, p.Network, p.Asset)
		return err
	}
	secret := func(s *Store) error { _, err := s.Purchases().Secret(context.Background()); return err }

	for _, tt := range []struct {
		name, spoil string
		read        func(*Store) error
		table, key  string
	}{
		{"an amount that is none", "UPDATE account SET credits_posted = '-1'", account, "account", address(1).Lower()},
		{"an amount past 256 bits", "UPDATE account SET debits_posted = '1000000000000000000000000000000000000000000000000000000000000000000000000000000'", account, "account", address(1).Lower()},
		{"an amount of an account in a list", "UPDATE account SET credits_posted = ''", balances, "account", address(1).Lower()},
		{"a flag that is none", "UPDATE account SET auto_settle = 2", account, "account", address(1).Lower()},
		{"an amount of the world", "UPDATE balance SET credits_posted = 'x'", balances, "balance", "world"},
		{"a kind that is none", "UPDATE balance SET kind = 'moon'", balances, "balance", "moon"},
		{"a short signature", "UPDATE guarantee SET signature = x'00'", byKey, "guarantee", ""},
		{"a short digest in a list", "UPDATE guarantee SET digest = x'00'", ofCycle, "guarantee", "seq 1"},
		{"more payable than signed", "UPDATE guarantee SET payable = '8'", byKey, "guarantee", ""},
		{"less payable without a note", "UPDATE guarantee SET note_reason = NULL, note_signature = NULL", ofCycle, "guarantee", g.Digest.String()},
		{"half a note", "UPDATE guarantee SET note_reason = NULL", byKey, "guarantee", ""},
		{"a negative time", "UPDATE guarantee SET timestamp = -1", byKey, "guarantee", ""},
		{"a sum that is none", "UPDATE payer_cycle SET payable = ''", payable, "payer_cycle", address(1).Lower()},
		{"another cycle's id", "UPDATE cycle SET id = zeroblob(32)", cycle, "cycle", ref.String()},
		{"a status that is none", "UPDATE cycle SET status = 'lost'", cycles, "cycle", ref.String()},
		{"a height that is none", "UPDATE cycle SET height = 256", cycles, "cycle", ref.String()},
		{"a role that is none", "UPDATE position SET role = 3", position, "position", address(1).Lower()},
		{"an amount of a position", "UPDATE position SET amount = '-5'", positions, "position", address(1).Lower()},
		{"a negative length", "UPDATE schedule SET length = -1", schedules, "schedule", "from 1"},
		{"a short block hash", "UPDATE block SET hash = x'00'", blocks, "block", "head 1"},
		{"a schedule that is no JSON", "UPDATE event SET schedule = '{'", drop, "event", "head 1/0"},
		{"an event's short hash", "UPDATE event SET tx_hash = x'00'", drop, "event", "head 1/0"},
		{"a call's state that is none", "UPDATE call SET state = 'gone'", callState, "call", "call"},
		{"a receipt of a call that waits", "UPDATE call SET state = 'sent'", call, "call", "call"},
		{"a call done without a receipt", "UPDATE call SET receipt_tx = NULL, receipt_block = NULL, receipt_block_hash = NULL, receipt_gas = NULL, receipt_fee = NULL, receipt_ok = NULL", call, "call", "call"},
		{"half a receipt", "UPDATE call SET receipt_gas = NULL", call, "call", "call"},
		{"a receipt that does not say how it went", "UPDATE call SET receipt_ok = NULL", call, "call", "call"},
		{"a nonce that no attempt has", "UPDATE attempt SET nonce = 5", call, "call", "call"},
		{"an attempt's short hash", "UPDATE attempt SET hash = x'00'", call, "attempt", "call/0"},
		{"a purchase's state that is none", "UPDATE purchase SET state = 'sold'", bought, "purchase", "p_1"},
		{"more charged than the cap", "UPDATE purchase SET charged = '6'", bought, "purchase", "p_1"},
		{"a charge of a void purchase", "UPDATE purchase SET state = 'void'", bought, "purchase", "p_1"},
		{"a short payment", "UPDATE purchase SET payment = x'00' WHERE id = 'p_1'", bought, "purchase", "p_1"},
		{"a short transaction", "UPDATE purchase SET tx = x'00' WHERE tx IS NOT NULL", bundled, "purchase", "p_buyer"},
		{"a transaction of zeros", "UPDATE purchase SET tx = zeroblob(32) WHERE tx IS NOT NULL", bundled, "purchase", "p_buyer"},
		{"a transaction of what was not to be settled", "UPDATE purchase SET settling = 0", bundled, "purchase", "p_buyer"},
		{"committed, and nobody knows whether it is paid", "UPDATE purchase SET tx = NULL", bundled, "purchase", "p_buyer"},
		{"a debt of what is over", "UPDATE purchase SET owed = '1'", bought, "purchase", "p_1"},
		{"more credit than the cap", "UPDATE purchase SET credit = '6'", bought, "purchase", "p_1"},
		{"more drawn than bought", "UPDATE purchase SET draws = 6", bundled, "purchase", "p_buyer"},
		{"a bundle that nobody buys", "UPDATE purchase SET buys = 0", bundled, "purchase", "p_buyer"},
		{"a draw that is charged", "UPDATE purchase SET bundle = 'p_buyer'", bought, "purchase", "p_1"},
		{"a negative draw", "UPDATE purchase SET draws = -1", bundled, "purchase", "p_buyer"},
		{"working without end", "UPDATE purchase SET state = 'working', charged = '0'", bought, "purchase", "p_1"},
		{"more remaining than there was", "UPDATE bundle SET remaining = 6", bundle, "bundle", "p_buyer"},
		{"a negative rest", "UPDATE bundle SET remaining = -1", bundles, "bundle", "p_buyer"},
		{"a bundle's state that is none", "UPDATE bundle SET state = 'sold'", bundle, "bundle", "p_buyer"},
		{"a bundle that is open for ever", "UPDATE bundle SET valid_until = NULL", bundle, "bundle", "p_buyer"},
		{"a bundle's short asset", "UPDATE bundle SET asset = x'00'", bundles, "bundle", "p_buyer"},
		{"a refund's kind that is none", "UPDATE refund SET kind = 'gift'", refund, "refund", "p_buyer"},
		{"a refund's state that is none", "UPDATE refund SET state = 'lost'", refund, "refund", "p_buyer"},
		{"a refund of nothing", "UPDATE refund SET amount = '0'", refunds, "refund", "p_buyer"},
		{"a transfer with a note", "UPDATE refund SET proof = x'00'", refunds, "refund", "p_buyer"},
		{"a transfer's short transaction", "UPDATE refund SET tx = x'00'", refund, "refund", "p_buyer"},
		{"a credit that is none", "UPDATE credit SET amount = '-1'", credit, "credit", "0x"},
		{"a header that is no JSON", "UPDATE answer SET header = '['", bought, "answer", "p_1"},
		{"a short secret", "UPDATE secret SET value = x'00'", secret, "secret", "quotes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := full(t, db)
			if err := tt.read(s); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = reopen(t, s.name)
			if tt.table == "event" { // reading drops it
				if err := s.Clearing().Write(t.Context(), func(tx clearing.Tx) error {
					return tx.PutBlock(clearing.Head, clearing.Block{Number: 1}, []clearing.Event{{Kind: clearing.ScheduleSet}})
				}); err != nil {
					t.Fatal(err)
				}
			}
			err := s.write(t.Context(), func(s *session) error {
				n, err := s.exec(db.sql(tt.spoil))
				if err == nil && n == 0 {
					err = errors.New("nothing to spoil")
				}
				return err
			})
			if state := sqlState(err); state == "22P02" || state == "22003" {
				return // the column takes nothing that is no amount
			}
			if err != nil {
				t.Fatal(err)
			}
			err = tt.read(s)
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "table "+tt.table+",") || !strings.Contains(err.Error(), tt.key) {
				t.Errorf("got  %v\nwant table %s, key %s", err, tt.table, tt.key)
			}
		})
	}
}

// What would be found corrupt is not written.
func TestWhatContradictsItselfIsNotWritten(t *testing.T) {
	onEach(t, testWhatContradictsItselfIsNotWritten)
}

func testWhatContradictsItselfIsNotWritten(t *testing.T, db database) {
	s, g := full(t, db)
	other := promise(address(3), address(2), 8)
	for name, fn := range map[string]func(clearing.Tx) error{
		"a guarantee in another asset's cycle": func(tx clearing.Tx) error {
			bad := other
			bad.Cycle.Asset = address(4)
			return tx.AddGuarantee(bad)
		},
		"less payable without a note": func(tx clearing.Tx) error {
			bad := other
			bad.Payable = money.Units(1)
			return tx.AddGuarantee(bad)
		},
		"a note that raises": func(tx clearing.Tx) error {
			note := *g.Note
			note.Amount = money.Units(4)
			return tx.LowerGuarantee(g.Digest, note.Amount, note, g.Evidence)
		},
		"a note for another amount": func(tx clearing.Tx) error { return tx.LowerGuarantee(g.Digest, money.Units(1), *g.Note, g.Evidence) },
		"a second guarantee under one key": func(tx clearing.Tx) error {
			bad := g
			bad.Digest, bad.Note, bad.Payable = evm.Hash{9}, nil, bad.Signed.Claims.Amount
			return tx.AddGuarantee(bad)
		},
		"a status that is none": func(tx clearing.Tx) error { return tx.PutCycle(clearing.Cycle{Ref: g.Cycle, Status: "lost"}) },
		"a number past 63 bits": func(tx clearing.Tx) error {
			return tx.PutSchedule(clearing.Schedule{Asset: g.Cycle.Asset, From: 1 << 63})
		},
		"collateral among what is nobody's": func(tx clearing.Tx) error {
			return tx.PutBalance(ledger.Account{Kind: ledger.Collateral, Owner: address(1)}, ledger.Balance{})
		},
		"a transfer between assets": func(tx clearing.Tx) error {
			return tx.AddTransfer(ledger.Transfer{ID: "x", Debit: ledger.Account{Kind: ledger.World, Asset: address(1)}, Credit: ledger.Account{Kind: ledger.Bond}})
		},
	} {
		if err := s.Clearing().Write(t.Context(), fn); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A guarantee comes back to the byte: it is evidence.
func TestAGuaranteeIsRebuiltExactly(t *testing.T) { onEach(t, testAGuaranteeIsRebuiltExactly) }

func testAGuaranteeIsRebuiltExactly(t *testing.T, db database) {
	s, want := full(t, db)
	if err := s.Clearing().Read(t.Context(), func(tx clearing.Tx) error {
		got, _, err := tx.GuaranteeByDigest(want.Digest)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b money.Amount) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
		a, err1 := json.Marshal(want.Signed)
		b, err2 := json.Marshal(got.Signed)
		if string(a) != string(b) {
			t.Errorf("got  %s\nwant %s", b, a)
		}
		return errors.Join(err1, err2)
	}); err != nil {
		t.Fatal(err)
	}
}

// The cost of a poll must not grow with the book: every read goes along an index.
func TestReadsUseIndexes(t *testing.T) {
	t.Parallel()
	s := sqliteFile.fresh(t)
	if err := s.Clearing().Read(t.Context(), func(tx clearing.Tx) error { // whatever it prepares is what is asked about
		ref := clearing.CycleRef{Asset: address(1), Start: 1}
		for range tx.Guarantees(ref) {
		}
		for range tx.GuaranteesOf(ref, address(1)) {
		}
		for range tx.Balances(address(1)) {
		}
		_, _, e1 := tx.GuaranteeByKey(guarantee.Key{})
		_, _, e2 := tx.GuaranteeByDigest(evm.Hash{})
		_, e3 := tx.PayableBy(ref, address(1))
		_, e4 := tx.Account(address(1), address(1))
		_, _, e5 := tx.CycleByID(evm.Hash{})
		_, e6 := tx.Cycles(address(1), true, 0)
		_, _, e7 := tx.Position(ref, 0, address(1))
		_, e8 := tx.Blocks(clearing.Head, 1)
		_, _, e9 := tx.CallState("x")
		_, e10 := tx.Unsettled(address(1), address(1), 1)
		return errors.Join(e1, e2, e3, e4, e5, e6, e7, e8, e9, e10)
	}); err != nil {
		t.Fatal(err)
	}
	_, e1 := s.Outbox().Open(t.Context(), address(1))
	_, e2 := s.Outbox().Finished(t.Context(), address(1), 0)
	_, _, e3 := s.Purchases().Find(t.Context(), evm.Hash{})
	_, _, e4 := s.Purchases().FindID(t.Context(), "x")
	_, e5 := s.Purchases().Unfinished(t.Context())
	_, e6 := s.Purchases().Undelivered(t.Context(), 1)
	_, _, e7 := s.Purchases().FindBundle(t.Context(), "x")
	_, e8 := s.Purchases().Bundles(t.Context(), address(1), address(2))
	_, _, e9 := s.Purchases().FindRefund(t.Context(), "x")
	_, e10 := s.Purchases().OpenRefunds(t.Context())
	_, e11 := s.Purchases().Credit(t.Context(), address(1), address(2), "", address(3))
	if err := errors.Join(e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11); err != nil {
		t.Fatal(err)
	}
	if err := s.read(t.Context(), func(r *session) error {
		for _, id := range []string{"", "x"} {
			if _, _, err := r.forCall(callOf("x"), purchase.BundleAsk{Draw: 1, Bundle: id}); !errors.Is(err, purchase.ErrNoBundle) {
				return err
			}
		}
		asked := 0
		for query := range r.prepared {
			if !strings.HasPrefix(query, "SELECT") {
				continue
			}
			asked++
			rows, err := r.conn.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
			if err != nil {
				return err
			}
			for rows.Next() {
				var id, parent, unused int
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					return err
				}
				if strings.HasPrefix(detail, "SCAN") && !strings.Contains(detail, "USING INDEX") && !strings.Contains(detail, "USING COVERING INDEX") || strings.Contains(detail, "TEMP B-TREE") {
					t.Errorf("%s\n\t%s", query, detail)
				}
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil {
				return err
			}
		}
		if asked < 27 {
			t.Errorf("only %d queries were asked about", asked)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAnswersAreKeptUpToALimitAndForAWhile(t *testing.T) {
	onEach(t, testAnswersAreKeptUpToALimitAndForAWhile)
}

func testAnswersAreKeptUpToALimitAndForAWhile(t *testing.T, db database) {
	s := db.fresh(t, AnswerBytesMax(4))
	b := s.Purchases()
	finish := func(id string, body string, at time.Time) {
		t.Helper()
		p := reservation(id, evm.Keccak256([]byte(id)))
		_, err := b.Reserve(t.Context(), p)
		p.State, p.DoneAt = purchase.Committed, at
		p.Answer = &purchase.Answer{Status: 201, Header: map[string][]string{"A": {"b"}}, Body: []byte(body), Whole: true}
		if err := errors.Join(err, b.Run(t.Context(), id, nil, noon), b.Finish(t.Context(), p)); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(id, body string, whole bool) {
		t.Helper()
		p, _, err := b.FindID(t.Context(), id)
		if err != nil || p.Answer == nil {
			t.Fatalf("%s: %+v, %v", id, p.Answer, err)
		}
		if p.Answer.Status != 201 || len(p.Answer.Header["A"]) != 1 || string(p.Answer.Body) != body || p.Answer.Whole != whole {
			t.Errorf("%s: %+v", id, p.Answer)
		}
	}
	finish("p_old", "1234", noon)
	finish("p_empty", "", noon.Add(time.Second))
	finish("p_large", "12345", noon)
	finish("p_new", "5678", noon.Add(time.Hour))
	answer("p_old", "1234", true)
	answer("p_empty", "", true)
	answer("p_large", "", false)

	held := reservation("p_held", evm.Hash{9})
	_, err := b.Reserve(t.Context(), held)
	held.State, held.DoneAt = purchase.Pending, noon
	held.Answer = &purchase.Answer{Status: 201, Header: map[string][]string{"A": {"b"}}, Body: []byte("held"), Whole: true}
	if err := errors.Join(err, b.Finish(t.Context(), held)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 1, 0} {
		if n, err := s.Prune(t.Context(), noon.Add(time.Minute), 1); n != want || err != nil {
			t.Errorf("prune %d: %d, %v, want %d", i, n, err, want)
		}
	}
	answer("p_old", "", false)
	answer("p_empty", "", false)
	answer("p_new", "5678", true)
	answer("p_held", "held", true)
	if _, err := b.Reserve(t.Context(), reservation("p_again", evm.Keccak256([]byte("p_old")))); !errors.Is(err, purchase.ErrTaken) {
		t.Errorf("a payment whose answer is gone: %v, want %v", err, purchase.ErrTaken)
	}
}
