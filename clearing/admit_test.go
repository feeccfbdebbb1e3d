package clearing

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

func verifier(t tester) *guarantee.Verifier {
	t.Helper()
	v, err := guarantee.NewVerifier(testAuthority.PublicKey(), deployment)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAdmitCertifies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	v := verifier(t)
	for _, batch := range []bool{false, true} {
		s := w.sign(0, 1, 30, start+50)
		first := w.Admit(t.Context(), []Request{{Signed: s, Batch: batch}}, at(start+50))[0]
		if first.Err != nil || first.Replayed {
			t.Fatalf("%+v", first)
		}
		again := w.Admit(t.Context(), []Request{{Signed: s, Batch: !batch}}, at(start+50))[0]
		if again.Err != nil || !again.Replayed || again.Digest != first.Digest {
			t.Fatalf("%+v", again)
		}
		for _, r := range []Result{first, again} {
			cycle, err := v.Verify(r.Certificate, s.Claims)
			if err != nil || cycle != r.Cycle.ID() || r.Cycle != (CycleRef{dollar, start}) {
				t.Errorf("certificate of %s: %v", r.Cycle, err)
			}
		}
		if (first.Certificate.Batch != nil) != batch || (again.Certificate.Batch != nil) == batch {
			t.Error("certificate is not of the form that was asked for")
		}
	}
	if a := w.account(0); units(a.Exposure()) != 60 {
		t.Errorf("exposure %s", a.Exposure())
	}
	w.check()
}

// The same bad input always gives the same error: each case breaks several rules, and the first in the documented order
// counts.
func TestOrderOfChecks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 40, start)
	w.chain.emit(Event{Kind: LimitSet, Account: party(0), Asset: dollar, Amount: money.Units(70), On: true})
	w.mine(start)
	used := w.sign(0, 1, 10, start)
	if r := w.admitOne(used, start); r.Err != nil {
		t.Fatal(r.Err)
	}
	tooLarge, err := money.ParseAmount("0x10000000000000000000000000000")
	if err != nil {
		t.Fatal(err)
	}
	largest, _ := tooLarge.Sub(money.Units(1))
	base := guarantee.Claims{Payer: party(0), Payee: party(1), Asset: dollar, ReqID: evm.Hash{1}, Amount: money.Units(20), Timestamp: start}
	const old, ahead = start - 301, start + 31
	for _, c := range []struct {
		name   string
		claims func(*guarantee.Claims)
		signed func(*guarantee.Signed)
		want   error
	}{
		{"amount 0, to itself, badly signed", func(c *guarantee.Claims) { c.Amount = money.Amount{}; c.Payee = c.Payer }, unsign, ErrAmount},
		{"amount 2^112, badly signed", func(c *guarantee.Claims) { c.Amount = tooLarge }, unsign, ErrAmount},
		{"amount 2^112 − 1", func(c *guarantee.Claims) { c.Amount = largest }, nil, ErrLimit},
		{"to itself, badly signed", func(c *guarantee.Claims) { c.Payee = c.Payer }, unsign, ErrParties},
		{"to the zero address, which cannot stand in a posting", func(c *guarantee.Claims) { c.Payee = evm.Address{} }, unsign, ErrParties},
		{"from the zero address", func(c *guarantee.Claims) { c.Payer = evm.Address{} }, unsign, ErrParties},
		{"depending on a validator, badly signed", func(c *guarantee.Claims) {
			*c = c.Bind(guarantee.Policy{ChainID: 31337, MinScore: 1, JobHash: evm.Hash{1}})
		}, unsign, guarantee.ErrVersion},
		{"unknown form, badly signed", nil, func(s *guarantee.Signed) { unsign(s); s.Form = "xyz" }, guarantee.ErrForm},
		{"a personal message, which is switched off", nil, func(s *guarantee.Signed) { s.Form = guarantee.EIP191 }, guarantee.ErrForm},
		{"badly signed, used id", func(c *guarantee.Claims) { *c = used.Claims }, unsign, guarantee.ErrSignature},
		{"used id, other amount, old, too much", func(c *guarantee.Claims) {
			*c = used.Claims
			c.Amount, c.Timestamp = money.Units(1000), old
		}, nil, ErrConflict},
		{"used id, other timestamp only", func(c *guarantee.Claims) { *c = used.Claims; c.Timestamp++ }, nil, ErrConflict},
		{"old, unknown asset", func(c *guarantee.Claims) { c.Asset, c.Timestamp = evm.Address{1}, old }, nil, guarantee.ErrStale},
		{"ahead, unknown asset", func(c *guarantee.Claims) { c.Asset, c.Timestamp = evm.Address{1}, ahead }, nil, guarantee.ErrFuture},
		{"at the end of time", func(c *guarantee.Claims) { c.Timestamp = 1<<64 - 1 }, nil, guarantee.ErrFuture},
		{"at its beginning", func(c *guarantee.Claims) { c.Timestamp = 0 }, nil, guarantee.ErrStale},
		{"unknown asset, too much", func(c *guarantee.Claims) { c.Asset, c.Amount = evm.Address{1}, money.Units(1000) }, nil, ErrAsset},
		{"past the limit and the collateral", func(c *guarantee.Claims) { c.Amount = money.Units(1000) }, nil, ErrLimit},
		{"one past the limit", func(c *guarantee.Claims) { c.Amount = money.Units(21) }, nil, ErrLimit},
		{"by somebody without collateral", func(c *guarantee.Claims) { c.Payer, c.Payee = party(2), party(0) }, func(s *guarantee.Signed) { *s = w.signClaims(2, s.Claims) }, ErrExposure},
		{"oldest and limit reached", func(c *guarantee.Claims) { c.Timestamp = start - 300 }, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := base
			if c.claims != nil {
				c.claims(&claims)
			}
			s := guarantee.Signed{Claims: claims, Form: guarantee.EIP712}
			if claims.Payer == party(0) {
				s = w.signClaims(0, claims)
			}
			if c.signed != nil {
				c.signed(&s)
			}
			for range 2 { // the same again
				r := w.admitOne(s, start)
				if !errors.Is(r.Err, c.want) || (r.Err == nil) != (c.want == nil) {
					t.Errorf("error %v, want %v", r.Err, c.want)
				}
				if r.Err != nil && (r.Certificate.Claims != nil || r.Certificate.Signature != [96]byte{}) {
					t.Error("a refused request has a certificate")
				}
			}
		})
	}
	w.check()
}

func unsign(s *guarantee.Signed) { s.Signature[3] ^= 1 }

func TestExposureErrorSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	w.owe(0, 1, 40, start)
	w.chain.emit(Event{Kind: WithdrawalRequested, Account: party(0), Asset: dollar, Amount: money.Units(25)})
	w.mine(start)
	r := w.admitOne(w.sign(0, 1, 36, start), start)
	var e *ExposureError
	if !errors.As(r.Err, &e) || units(e.Asked) != 36 || units(e.Free) != 35 || units(e.Deposited) != 100 || units(e.InUse) != 40 || units(e.Held) != 25 {
		t.Errorf("%v", r.Err)
	}
	w.owe(0, 1, 35, start)
}

// One signature is worth one guarantee for ever: in the next cycle, after its own is over, after it was let go, and in
// every spelling of its text.
func TestSameGuaranteeForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	s := w.sign(0, 1, 60, start+99)
	first := w.admitOne(s, start+99)
	if first.Err != nil {
		t.Fatal(first.Err)
	}
	let := w.owe(0, 1, 10, start+99)
	if err := w.lower(let.Digest, 1, 0, start+99); err != nil {
		t.Fatal(err)
	}
	v := verifier(t)
	for _, now := range []uint64{end, cutoff + 5, end + 250, end + 100_000} {
		w.closeAt(now)
		r := w.admitOne(s, now)
		if r.Err != nil || !r.Replayed || r.Cycle != first.Cycle {
			t.Errorf("at %d: %+v", now, r)
		}
		if cycle, err := v.Verify(r.Certificate, s.Claims); err != nil || cycle != first.Cycle.ID() {
			t.Errorf("at %d: %v", now, err)
		}
		other := s.Claims
		other.Amount = money.Units(61)
		if r := w.admitOne(w.signClaims(0, other), now); !errors.Is(r.Err, ErrConflict) {
			t.Errorf("other content at %d: %v", now, r.Err)
		}
	}
	standing, err := w.Guarantee(t.Context(), let.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if r := w.admitOne(standing.Guarantee.Signed, end+100_001); r.Err != nil || !r.Replayed {
		t.Errorf("a guarantee that was let go: %+v", r)
	}
	// The letter case of its JSON does not make it another one.
	b := []byte(fmt.Sprintf(`{"claims":{"version":"v1","user_address":"0x%X","recipient_address":%q,"req_id":%q,"amount":"60","asset_address":%q,"timestamp":%d},"signature":%q,"scheme":"eip712"}`,
		[20]byte(party(0)), party(1).Lower(), s.Claims.ReqID, dollar.Lower(), s.Claims.Timestamp, s.Signature))
	var spelled guarantee.Signed
	if err := spelled.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	if r := w.admitOne(spelled, end+100_002); r.Err != nil || !r.Replayed {
		t.Errorf("another spelling: %+v", r)
	}
}

func TestPersonalMessageWhereAdmitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Rules.EIP191 = true })
	w.deposit(0, 100)
	c := w.sign(0, 1, 10, start).Claims
	var words []byte
	for _, word := range [][32]byte{c.Payer.Word(), c.Payee.Word(), c.ReqID, c.Amount.Word(), c.Asset.Word(), evm.WordUint64(c.Timestamp)} {
		words = append(words, word[:]...)
	}
	text := []byte("0x" + hex.EncodeToString(words))
	for form, message := range map[byte][]byte{1: words, 2: text} {
		sig, err := testKeys[0].Sign(t.Context(), evm.HashPersonal(message))
		if err != nil {
			t.Fatal(err)
		}
		s := guarantee.Signed{Claims: c, Signature: sig, Form: guarantee.EIP191}
		if r := w.admitOne(s, start); r.Err != nil {
			t.Errorf("form %d: %v", form, r.Err)
		}
		if got := signatureForm(s); got != form {
			t.Errorf("form %d is taken for %d", form, got)
		}
	}
	if got := signatureForm(w.sign(0, 1, 10, start)); got != 0 {
		t.Errorf("typed data is taken for %d", got)
	}
	if a := w.account(0); units(a.Exposure()) != 10 {
		t.Errorf("two signatures on one guarantee count as %s", a.Exposure())
	}
}

// A guarantee goes to the cycle whose time it is; if another house's clock has frozen that one, to the next.
func TestCycleThatTakesAGuarantee(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	if _, err := w.Current(t.Context(), dollar, at(start-1)); !errors.Is(err, ErrAsset) {
		t.Errorf("before the first cycle: %v", err)
	}
	if r := w.admitOne(w.sign(0, 1, 1, start-1), start-1); !errors.Is(r.Err, ErrAsset) {
		t.Errorf("before the first cycle: %v", r.Err)
	}
	for _, c := range []struct{ now, want uint64 }{{start, start}, {end - 1, start}, {end, end}} {
		if r := w.owe(0, 1, 1, c.now); r.Cycle.Start != c.want {
			t.Errorf("at %d: cycle of %d, want %d", c.now, r.Cycle.Start, c.want)
		}
	}
	w.closeAt(end)
	if r := w.owe(0, 1, 1, end-1); r.Cycle.Start != end {
		t.Errorf("a slow clock puts a guarantee into the frozen cycle of %d", r.Cycle.Start)
	}
	if c, err := w.Current(t.Context(), dollar, at(end-1)); err != nil || c.Ref.Start != end {
		t.Errorf("current %+v, %v", c, err)
	}
	w.check()
}

// A new schedule acts from its first cycle on.
func TestScheduleChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	next := schedule
	next.From, next.Length = start+300, 50
	w.chain.emit(Event{Kind: ScheduleSet, Asset: dollar, Schedule: &next})
	w.mine(start)
	for _, c := range []struct{ now, start, end uint64 }{
		{start + 299, start + 200, start + 300}, {start + 300, start + 300, start + 350}, {start + 349, start + 300, start + 350}, {start + 350, start + 350, start + 400},
	} {
		r := w.owe(0, 1, 1, c.now)
		if cycle := w.cycleAt(r.Cycle.Start); cycle.Ref.Start != c.start || cycle.End != c.end {
			t.Errorf("at %d: %+v", c.now, cycle)
		}
	}
}

// Many callers at once spend one payer's collateral to the last unit and not past it.
func TestNobodyPassesCollateralTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.BatchMax = 8 })
	const callers, each, amount, collateral = 16, 12, 7, 300
	w.deposit(0, collateral)
	var requests [callers][]Request
	for i := range requests {
		for k := range each {
			requests[i] = append(requests[i], Request{Signed: w.sign(0, 1+i%3, amount, start), Batch: k%2 == 0})
		}
		if i > 0 {
			requests[i] = append(requests[i], requests[i-1][0]) // and somebody else's again
		}
	}
	var results [callers][]Result
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() { results[i] = w.Admit(t.Context(), requests[i], at(start)) })
	}
	wg.Wait()
	v := verifier(t)
	admitted := make(map[evm.Hash]bool)
	for i, rs := range results {
		for k, r := range rs {
			switch {
			case r.Err == nil:
				admitted[r.Digest] = true
				if _, err := v.Verify(r.Certificate, requests[i][k].Signed.Claims); err != nil {
					t.Error(err)
				}
			case !errors.Is(r.Err, ErrExposure):
				t.Error(r.Err)
			}
		}
	}
	if want := collateral / amount; len(admitted) != want {
		t.Errorf("%d admitted, want %d", len(admitted), want)
	}
	if a := w.account(0); units(a.Exposure()) != uint64(len(admitted)*amount) {
		t.Errorf("exposure %s", a.Exposure())
	}
	w.check()
}

// In one group, neighbours of every bad kind cost a good one nothing, and the same one twice counts once.
func TestBadNeighbours(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deposit(0, 100)
	good := w.sign(0, 1, 30, start)
	forged := w.sign(0, 1, 30, start)
	unsign(&forged)
	other := good.Claims
	other.Amount = money.Units(31)
	results := w.Admit(t.Context(), []Request{
		{Signed: forged, Batch: true}, {Signed: w.sign(2, 1, 5, start), Batch: true}, {Signed: good, Batch: true},
		{Signed: w.signClaims(0, other), Batch: true}, {Signed: good}, {Signed: w.sign(0, 1, 71, start)}, {Signed: w.sign(0, 1, 70, start), Batch: true},
		{Signed: w.sign(0, 1, 5, start-400)},
	}, at(start))
	for i, want := range []error{guarantee.ErrSignature, ErrExposure, nil, ErrConflict, nil, ErrExposure, nil, guarantee.ErrStale} {
		if !errors.Is(results[i].Err, want) || (results[i].Err == nil) != (want == nil) {
			t.Errorf("request %d: %v, want %v", i, results[i].Err, want)
		}
	}
	if results[2].Replayed || !results[4].Replayed {
		t.Error("the second of two is not the replay")
	}
	if b := results[6].Certificate.Batch; b == nil || b.Size != 2 {
		t.Errorf("batch %+v, want the two that were admitted", b)
	}
	w.check()
}

// faultyBook fails writes, before or after they are durable.
type faultyBook struct {
	Book
	before error // nothing is written
	after  error // everything is written, and then the answer is lost
}

func (f *faultyBook) Write(ctx context.Context, fn func(Tx) error) error {
	if f.before != nil {
		return f.before
	}
	if err := f.Book.Write(ctx, fn); err != nil {
		return err
	}
	return f.after
}

// The store fails, having written or not: the answer is neither yes nor no, no certificate leaves, and the same request
// again finds out.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk is on fire")
	for _, c := range []struct {
		name     string
		fault    faultyBook
		replayed bool
	}{
		{"before it is durable", faultyBook{before: broken}, false},
		{"after it is durable", faultyBook{after: broken}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fault := &faultyBook{}
			w := newWorld(t, func(config *Config) { fault.Book = config.Book; config.Book = fault })
			w.deposit(0, 100)
			s := w.sign(0, 1, 60, start)
			fault.before, fault.after = c.fault.before, c.fault.after
			for _, r := range w.Admit(t.Context(), []Request{{Signed: s}, {Signed: w.sign(1, 0, 1, start), Batch: true}}, at(start)) {
				if !errors.Is(r.Err, ErrUnfinished) || !errors.Is(r.Err, broken) || r.Certificate.Claims != nil {
					t.Errorf("%+v", r)
				}
			}
			fault.before, fault.after = nil, nil
			r := w.admitOne(s, start)
			if r.Err != nil || r.Replayed != c.replayed {
				t.Errorf("again: %+v", r)
			}
			if a := w.account(0); units(a.Exposure()) != 60 {
				t.Errorf("exposure %s", a.Exposure())
			}

			fault.before, fault.after = c.fault.before, c.fault.after
			if err := w.lower(r.Digest, 1, 10, start); !errors.Is(err, ErrUnfinished) {
				t.Errorf("note: %v", err)
			}
			fault.before, fault.after = nil, nil
			if err := w.lower(r.Digest, 1, 10, start); err != nil {
				t.Errorf("note again: %v", err)
			}
			if a := w.account(0); units(a.Exposure()) != 10 {
				t.Errorf("exposure %s", a.Exposure())
			}
			w.check()
		})
	}
}

// Every pass of closing may fail either way; the next one goes on from there.
func TestStoreFailsWhileClosing(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk is on fire")
	for name, set := range map[string]func(*faultyBook, error){
		"before it is durable": func(f *faultyBook, err error) { f.before = err },
		"after it is durable":  func(f *faultyBook, err error) { f.after = err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fault := &faultyBook{}
			w := newWorld(t, func(config *Config) { fault.Book = config.Book; config.Book = fault })
			w.deposit(0, 100)
			w.owe(0, 1, 60, start)
			var now uint64 = end
			for w.cycleAt(start).Status != Closed {
				if now > end+400 {
					t.Fatalf("does not get on: %+v", w.cycleAt(start))
				}
				w.mine(now)
				set(fault, broken)
				if err := w.CloseDue(t.Context(), at(now), now); !errors.Is(err, broken) {
					t.Errorf("at %d: %v", now, err)
				}
				set(fault, nil)
				w.check()
				if err := w.CloseDue(t.Context(), at(now), now); err != nil {
					t.Errorf("at %d: %v", now, err)
				}
				w.check()
				now += 9
			}
			kinds := ""
			for _, c := range w.chain.executed {
				kinds += c.Kind + " "
			}
			if kinds != "post commit finalize mark " {
				t.Errorf("executed %s", kinds)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Config{Book: NewMemory(), Chain: newSimChain(), Deployment: deployment, Authority: testAuthority}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"no book":           func(c *Config) { c.Book = nil },
		"no chain":          func(c *Config) { c.Chain = nil },
		"no authority":      func(c *Config) { c.Authority = nil },
		"no vault":          func(c *Config) { c.Deployment.Vault = evm.Address{} },
		"no clearing house": func(c *Config) { c.Deployment.ClearingHouse = evm.Address{} },
		"no name":           func(c *Config) { c.Deployment.Name = "" },
		"negative window":   func(c *Config) { c.Past = -1 },
		"odd chunks":        func(c *Config) { c.ChunkMax = 3 },
		"large chunks":      func(c *Config) { c.ChunkMax = 2048 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
