package purchasetest

import (
	"errors"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// must fails the test with the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("step %d: %v", i+1, err)
		}
	}
}

// refused fails unless every error matches want and the book still has exactly p.
func refused(t *testing.T, b purchase.Book, p purchase.Purchase, wanted error, errs ...error) {
	t.Helper()
	for i, err := range errs {
		if !errors.Is(err, wanted) {
			t.Errorf("call %d: %v, want %v", i+1, err, wanted)
		}
	}
	want(t, b, p)
}

func unknown(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	// Each state in which a settlement may have been asked for, and how a purchase gets there.
	for n, path := range [][]purchase.State{
		nil, {purchase.Running}, {purchase.Running, purchase.Working}, {purchase.Running, purchase.Pending}, {purchase.Pending},
	} {
		p := sample(n + 1)
		reserve(t, b, p)
		for _, to := range path {
			if to == purchase.Running {
				p.State, p.RunAt = to, noon
				must(t, b.Run(ctx, p.ID, nil, noon))
				continue
			}
			p = finished(p, to)
			must(t, b.Finish(ctx, p))
		}
		for _, certificate := range []string{`{"first":1}`, `{"second":2}`} { // it can be said again
			p.Settling, p.Certificate = true, []byte(certificate)
			must(t, b.Settling(ctx, p.ID, p.Certificate))
			want(t, b, p)
		}
		if p.State == purchase.Reserved {
			refused(t, b, p, purchase.ErrState, b.Run(ctx, p.ID, []byte("other"), noon))
		}
		refused(t, b, p, purchase.ErrState, b.Finish(ctx, finished(p, purchase.Void)), b.Finish(ctx, finished(p, purchase.Committed)))
		if p.State != purchase.Reserved {
			kept := p.Answer
			p = finished(p, purchase.Pending) // that is what is left
			must(t, b.Finish(ctx, p))
			p.Answer = kept
			want(t, b, p)
		}

		p.Settling = false
		must(t, b.NotSettled(ctx, p.ID), b.NotSettled(ctx, p.ID))
		want(t, b, p)
		p = finished(p, purchase.Void)
		must(t, b.Finish(ctx, p))
		want(t, b, p)
		refused(t, b, p, purchase.ErrState, b.Settling(ctx, p.ID, nil), b.Settled(ctx, p.ID, evm.Hash{1}), b.NotSettled(ctx, p.ID))
	}
	for _, err := range []error{b.Settling(ctx, "p_none", nil), b.Settled(ctx, "p_none", evm.Hash{1}), b.NotSettled(ctx, "p_none"), b.Owe(ctx, "p_none", money.Units(1))} {
		if !errors.Is(err, purchase.ErrState) {
			t.Errorf("a purchase that is not there: %v, want %v", err, purchase.ErrState)
		}
	}
	p := sample(9)
	p.Settling, p.Certificate = true, []byte("{}") // reserved and settling in one step
	reserve(t, b, p)
	want(t, b, p)
	refused(t, b, p, purchase.ErrState, b.Finish(ctx, finished(p, purchase.Void)))
}

func moved(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	p := sample(1)
	reserve(t, b, p)
	must(t, b.Settling(ctx, p.ID, []byte("{}")))
	if err := b.Settled(ctx, p.ID, evm.Hash{}); err == nil {
		t.Error("settled in no transaction")
	}
	for _, tx := range []evm.Hash{{1}, {1}, {2}} { // sent again with a higher fee
		p.Settling, p.Certificate, p.Transaction = true, []byte("{}"), tx
		must(t, b.Settled(ctx, p.ID, tx))
		want(t, b, p)
	}
	refused(t, b, p, purchase.ErrState, b.Finish(ctx, finished(p, purchase.Void)))
	must(t, b.Run(ctx, p.ID, nil, noon)) // and the certificate stays
	p.State, p.RunAt = purchase.Running, noon
	want(t, b, p)
	refused(t, b, p, purchase.ErrState, b.Finish(ctx, finished(p, purchase.Void)))
	done := finished(p, purchase.Committed)
	done.Transaction = evm.Hash{} // a reconciler need not carry it
	must(t, b.Finish(ctx, done))
	p = finished(p, purchase.Committed)
	want(t, b, p)
	refused(t, b, p, purchase.ErrState, b.NotSettled(ctx, p.ID), b.Settling(ctx, p.ID, nil))
	p.Transaction = evm.Hash{3} // a reorganisation, and it was mined again
	must(t, b.Settled(ctx, p.ID, p.Transaction))
	want(t, b, p)

	// Who was front-run never asked for the transaction that paid it.
	q := sample(2)
	reserve(t, b, q)
	must(t, b.Settled(ctx, q.ID, evm.Hash{4}))
	q.Settling, q.Transaction = true, evm.Hash{4}
	want(t, b, q)
	// A reorganisation took it back before anything was served.
	must(t, b.NotSettled(ctx, q.ID))
	q.Settling, q.Transaction = false, evm.Hash{}
	want(t, b, q)

	// Settled and finished in one step.
	r := sample(3)
	reserve(t, b, r)
	must(t, b.Run(ctx, r.ID, nil, noon), b.Settling(ctx, r.ID, []byte("{}")))
	r.State, r.RunAt, r.Certificate, r.Transaction = purchase.Running, noon, []byte("{}"), evm.Hash{5}
	r = finished(r, purchase.Committed)
	must(t, b.Finish(ctx, r))
	r.Settling = true
	want(t, b, r)
}

func heldBack(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	for n, end := range []purchase.State{purchase.Committed, purchase.Void} {
		p := sample(n + 1)
		reserve(t, b, p)
		must(t, b.Run(ctx, p.ID, nil, noon))
		p.State, p.RunAt = purchase.Running, noon
		held := &purchase.Answer{Status: 200, Header: map[string][]string{"A": {"b"}}, Body: []byte("held back"), Whole: true}
		p = finished(p, purchase.Pending)
		p.Answer = held
		must(t, b.Finish(ctx, p))
		want(t, b, p)
		if move := p.Shown(p.Request); move != purchase.Resolve {
			t.Errorf("shown again: %s", move)
		}
		again := p
		again.Answer, again.Outcome = nil, "still unknown"
		must(t, b.Finish(ctx, again))
		p.Outcome = again.Outcome
		want(t, b, p)

		done := finished(p, end)
		done.Answer = nil
		must(t, b.Finish(ctx, done))
		if end == purchase.Committed {
			done.Answer = held
		}
		want(t, b, done)
	}

	// The receipt joins the header when the money has moved.
	p := sample(3)
	reserve(t, b, p)
	must(t, b.Run(ctx, p.ID, nil, noon))
	p = finished(p, purchase.Pending)
	p.RunAt = noon
	p.Answer = &purchase.Answer{Status: 200, Header: map[string][]string{"A": {"b"}}, Body: []byte("held back"), Whole: true}
	must(t, b.Finish(ctx, p))
	p = finished(p, purchase.Committed)
	p.Answer = &purchase.Answer{Status: 200, Header: map[string][]string{"A": {"b"}, "Payment-Response": {"r"}}, Body: []byte("held back"), Whole: true}
	must(t, b.Finish(ctx, p))
	want(t, b, p)

	// A job: 202, and later its result.
	p = sample(4)
	reserve(t, b, p)
	must(t, b.Run(ctx, p.ID, nil, noon))
	p = finished(p, purchase.Working)
	p.RunAt = noon
	p.Answer = &purchase.Answer{Status: 202, Header: map[string][]string{"Location": {"/job"}}, Body: []byte("queued"), Whole: true}
	must(t, b.Finish(ctx, p))
	want(t, b, p)
	if move := p.Shown(p.Request); move != purchase.Replay {
		t.Errorf("a job shown again: %s", move)
	}
	if all, err := b.Unfinished(ctx); err != nil || len(all) != 1 || all[0].ID != p.ID {
		t.Errorf("a job is not among the unfinished: %v, %v", all, err)
	} else if a := all[0].Answer; a == nil || a.Status != 202 || !a.Whole || a.Body != nil {
		t.Errorf("its answer in that list: %+v, want it without its body", a)
	}
	want(t, b, p) // the body is still there
	kept := p.Answer
	p = finished(p, purchase.Committed)
	p.Answer, p.Due = nil, p.ReservedAt.Add(time.Hour)
	must(t, b.Finish(ctx, p))
	p.Answer = kept
	want(t, b, p)
}

func owing(t *testing.T, b purchase.Book) {
	ctx := t.Context()
	p := sample(1)
	reserve(t, b, p)
	refused(t, b, p, purchase.ErrState, b.Owe(ctx, p.ID, money.Units(1)))
	must(t, b.Run(ctx, p.ID, nil, noon), b.Owe(ctx, p.ID, money.Units(10)), b.Owe(ctx, p.ID, money.Units(10)))
	p.State, p.RunAt, p.Owed = purchase.Running, noon, money.Units(10)
	want(t, b, p)
	for name, units := range map[string]uint64{"less than before": 9, "more than was signed": 1001} {
		if err := b.Owe(ctx, p.ID, money.Units(units)); err == nil {
			t.Errorf("%s: no error", name)
		}
		want(t, b, p)
	}
	p = finished(p, purchase.Working)
	p.Owed = money.Units(20)
	must(t, b.Finish(ctx, p), b.Owe(ctx, p.ID, money.Units(1000)))
	p.Owed = money.Units(1000)
	want(t, b, p)
	late := finished(p, purchase.Committed)
	late.Owed, late.Charged = p.Owed, p.Owed // who found it hands it back as it is
	must(t, b.Finish(ctx, late))
	late.Owed = money.Amount{}
	want(t, b, late)
	refused(t, b, late, purchase.ErrState, b.Owe(ctx, p.ID, money.Units(1000)))
}
