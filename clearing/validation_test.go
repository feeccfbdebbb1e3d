package clearing

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

var trusted = evm.Address{0x80, 0x04}

// answers is a registry: what it said at a block is the newest answer up to then.
type answers struct {
	said  map[evm.Hash][]guarantee.Answer // by request, the oldest first
	asked int
	down  error
}

func (r *answers) Answers(_ context.Context, at Block, asked []guarantee.Policy) ([]guarantee.Answer, error) {
	if r.down != nil {
		return nil, r.down
	}
	list := make([]guarantee.Answer, len(asked))
	for i, p := range asked {
		r.asked++
		for _, a := range r.said[p.Request] {
			if p.Registry == trusted && a.LastUpdate <= at.Time {
				list[i] = a
			}
		}
	}
	return list, nil
}

// judged is a world with validators.
type judged struct {
	*world
	registry *answers
}

func newJudged(t tester) *judged {
	t.Helper()
	r := &answers{said: make(map[evm.Hash][]guarantee.Answer)}
	w := &judged{newWorld(t, func(c *Config) { c.Registry, c.Registries = r, []evm.Address{trusted} }), r}
	w.deposit(0, 100)
	return w
}

var judge = guarantee.Policy{
	Registry: trusted, ChainID: 31337, Validator: evm.Address{0x0a}, AgentID: evm.Hash{31: 7}, MinScore: 80, JobHash: evm.Hash{1}, Tag: "done",
}

// signJudged makes a guarantee that depends on a validator.
func (w *judged) signJudged(payer, payee int, amount, now uint64) guarantee.Signed {
	w.Helper()
	return w.signClaims(payer, w.sign(payer, payee, amount, now).Claims.Bind(judge))
}

// depend admits one.
func (w *judged) depend(payer, payee int, amount, now uint64) Result {
	w.Helper()
	r := w.admitOne(w.signJudged(payer, payee, amount, now), now)
	if r.Err != nil {
		w.Fatal(r.Err)
	}
	return r
}

// answer has the validator answer at a moment.
func (w *judged) answer(r Result, score uint8, at uint64) {
	w.Helper()
	p := w.standing(r).Guarantee.Signed.Claims.Policy
	w.registry.said[p.Request] = append(w.registry.said[p.Request],
		guarantee.Answer{Validator: p.Validator, AgentID: p.AgentID, Response: score, Tag: p.Tag, LastUpdate: at})
}

func (w *judged) standing(r Result) Standing {
	w.Helper()
	s, err := w.Guarantee(context.Background(), r.Digest)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *judged) ask(now uint64) {
	w.Helper()
	if err := w.AskValidators(context.Background(), at(now)); err != nil {
		w.Fatal(err)
	}
	w.check()
}

// beatAt is one round of a house: look, ask, close.
func (w *judged) beatAt(now uint64) {
	w.Helper()
	w.mine(now)
	w.ask(now)
	if err := w.CloseDue(context.Background(), at(now), now); err != nil {
		w.Fatal(err)
	}
	w.mine(now)
	w.check()
}

// beats runs rounds every few seconds.
func (w *judged) beats(from, to uint64) {
	w.Helper()
	for now := from; now <= to; now += 5 {
		w.beatAt(now)
	}
}

func (w *judged) want(r Result, status GuaranteeStatus, cycle uint64) {
	w.Helper()
	s := w.standing(r)
	if s.Status != status || s.Guarantee.Netting().Start != cycle {
		w.Fatalf("guarantee is %s in cycle %d, want %s in %d; %+v", s.Status, s.Guarantee.Netting().Start, status, cycle, *s.Guarantee.Validation)
	}
}

func (w *judged) locked(want uint64) {
	w.Helper()
	if got := units(w.account(0).Exposure()); got != want {
		w.Fatalf("%d is locked, want %d", got, want)
	}
}

func TestAnsweredInItsCycle(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	r := w.depend(0, 1, 40, start)
	plain := w.owe(0, 1, 10, start)
	w.want(r, StatusPending, 0)
	w.locked(50)
	if c := w.standing(r).Cycle; c.Ref.Start != start {
		t.Errorf("while it waits, its cycle is %s", c.Ref)
	}
	payee := party(1)
	if list, err := w.List(t.Context(), Listing{Asset: dollar, Payee: &payee, Before: Place{Start: 1}, Limit: 9}); err != nil || len(list) != 1 || list[0].Guarantee.Digest != r.Digest {
		t.Errorf("%d wait, %v", len(list), err)
	}
	if s, err := w.Statement(t.Context(), CycleRef{dollar, start}.String(), party(0)); err != nil || units(s.Out) != 10 {
		t.Errorf("statement while it waits: %+v, %v", s, err)
	}
	w.beats(start, start+40)
	w.want(r, StatusPending, 0)
	w.answer(r, 79, start+41) // not enough
	w.beats(start+45, start+60)
	w.want(r, StatusPending, 0)
	w.answer(r, 80, start+61)
	w.beats(start+65, start+90)
	w.want(r, StatusPayable, start)
	w.answer(r, 0, start+91) // what counted once counts
	w.beats(start+95, start+115)
	w.want(r, StatusNetted, start)
	if c := w.status(Committed); c.Guarantees != 2 || units(c.Total) != 50 {
		t.Errorf("cycle nets %d guarantees for %s", c.Guarantees, c.Total)
	}
	w.locked(0)
	for i := range 2 { // the certificate stays the same
		again := w.admitOne(w.standing([]Result{r, plain}[i]).Guarantee.Signed, start+115)
		if !again.Replayed || again.Certificate.Signature != []Result{r, plain}[i].Certificate.Signature {
			t.Errorf("%d: replayed %v with another certificate", i, again.Replayed)
		}
	}
}

// A cycle of nothing but guarantees that wait closes, and a later one nets what was answered after its cutoff.
func TestAnsweredLate(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	r := w.depend(0, 1, 40, start)
	w.beats(start+5, start+120)
	w.status(Closed)
	w.want(r, StatusPending, 0)
	w.locked(40)
	w.answer(r, 100, start+150)
	w.beats(start+150, start+170)
	w.want(r, StatusPayable, start+100)
	w.beats(start+175, start+300)
	s := w.standing(r)
	if s.Status == StatusPayable || s.Cycle.Ref.Start != start+100 || s.Cycle.Guarantees != 1 {
		t.Errorf("%s in cycle %s of %d", s.Status, s.Cycle.Ref, s.Cycle.Guarantees)
	}
	// The certificate names the first cycle; the verifier of its payee sees no other.
	cert, err := w.Certificate(s.Guarantee)
	if err != nil {
		t.Fatal(err)
	}
	v, err := guarantee.NewVerifier(testAuthority.PublicKey(), deployment)
	if err != nil {
		t.Fatal(err)
	}
	if named, err := v.Verify(cert, s.Guarantee.Signed.Claims); err != nil || named != (CycleRef{dollar, start}).ID() {
		t.Errorf("certificate of cycle %s, %v", named, err)
	}
	w.locked(0)
}

// The last cycle that may net a guarantee is the third after that of its certificate; then the lock is free.
func TestNeverAnswered(t *testing.T) {
	t.Parallel()
	for _, answered := range []bool{false, true} {
		w := newJudged(t)
		r := w.depend(0, 1, 40, start)
		if answered {
			w.answer(r, 79, start+50)
			w.answer(r, 80, start+411) // a second after the last cutoff
		}
		w.beats(start+5, start+405)
		w.want(r, StatusPending, 0)
		w.locked(40)
		w.beats(start+410, start+430)
		w.want(r, StatusCancelled, 0)
		w.locked(0)
		if _, err := w.House.Cycle(context.Background(), CycleRef{dollar, start + 300}.String()); !errors.Is(err, ErrNotFound) {
			t.Errorf("a cycle was opened for nothing: %v", err)
		}
		w.beats(start+435, start+500)
		w.want(r, StatusCancelled, 0)
	}
}

func TestAnsweredAtTheLastMoment(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	r := w.depend(0, 1, 40, start)
	w.answer(r, 80, start+410) // the last cutoff itself
	w.beats(start+5, start+430)
	w.want(r, StatusNetted, start+300)
}

// A cycle waits past its cutoff until validators were asked what they said before it. What they say after it is for the next.
func TestNettingWaitsForAnswers(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	before, after := w.depend(0, 1, 40, start), w.depend(0, 2, 20, start)
	w.beats(start+5, start+105)
	w.answer(before, 80, start+110)
	w.answer(after, 80, start+111)
	w.closeAt(start + 112) // nobody has been asked since the cutoff
	w.status(Frozen)
	w.beatAt(start + 113)
	w.want(before, StatusNetted, start)
	w.want(after, StatusPayable, start+100)
	if c := w.status(Committed); units(c.Total) != 40 {
		t.Errorf("total %s", c.Total)
	}
}

// A registry that does not answer holds a cycle up for half of its posting time, and no longer.
func TestARegistryThatIsDown(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	r := w.depend(0, 1, 40, start)
	w.owe(0, 1, 10, start)
	w.answer(r, 80, start+50)
	w.registry.down = errors.New("no answer")
	w.mine(start + 60)
	if err := w.AskValidators(context.Background(), at(start+60)); !errors.Is(err, w.registry.down) {
		t.Fatalf("asked: %v", err)
	}
	for now := uint64(start + 65); now < start+130; now += 5 {
		w.closeAt(now)
	}
	w.status(Frozen)
	w.closeAt(start + 130)
	w.status(Committed)
	w.want(r, StatusPending, 0)
	w.registry.down = nil
	w.beatAt(start + 135)
	w.want(r, StatusPayable, start+100)
	w.check()
}

// What waits counts against the payer's limit wherever it may be netted, so that what is admitted meanwhile leaves it room.
func TestLimitsHoldRoom(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	limit := func(units uint64, now uint64) {
		w.chain.emit(Event{Kind: LimitSet, Account: party(0), Asset: dollar, Amount: money.Units(units), On: true})
		w.mine(now)
	}
	limit(50, start)
	r := w.depend(0, 1, 40, start)
	for _, now := range []uint64{start + 1, start + 101} {
		refused := w.admitOne(w.sign(0, 2, 11, now), now)
		var e *LimitError
		if !errors.As(refused.Err, &e) || e.Used != money.Units(40) {
			t.Fatalf("at %d: %v", now, refused.Err)
		}
	}
	w.owe(0, 2, 10, start+101)
	w.beats(start+105, start+115)
	w.answer(r, 80, start+116)
	w.beats(start+120, start+130)
	w.want(r, StatusPayable, start+100)
	if refused := w.admitOne(w.sign(0, 2, 1, start+131), start+131); !errors.Is(refused.Err, ErrLimit) {
		t.Errorf("the limit of the cycle is reached: %v", refused.Err)
	}
}

// A lower limit acts from the next cycle: the cycle of the certificate nets the guarantee all the same, a later one, from
// which the contract would not take so much, does not.
func TestALowerLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answered uint64
		status   GuaranteeStatus
		cycle    uint64
	}{{start + 60, StatusPayable, start}, {start + 120, StatusPending, 0}} {
		w := newJudged(t)
		r := w.depend(0, 1, 40, start)
		w.chain.emit(Event{Kind: LimitSet, Account: party(0), Asset: dollar, Amount: money.Units(39), On: true})
		w.beats(start+5, c.answered)
		w.answer(r, 80, c.answered)
		for now := c.answered; w.standing(r).Status == StatusPending && now < c.answered+40; now += 5 {
			w.beatAt(now)
		}
		w.want(r, c.status, c.cycle)
		if c.status == StatusPending {
			w.beats(c.answered+40, start+435)
			w.want(r, StatusCancelled, 0)
			w.locked(0)
		}
	}
}

func TestAnswersAreTakenBack(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	r := w.depend(0, 1, 40, start)
	w.beatAt(start + 5)
	before := w.memory.dump()
	w.answer(r, 80, start+20)
	b := w.mine(start + 20)
	w.ask(start + 20)
	w.want(r, StatusPayable, start)
	unwind := func(to uint64) {
		t.Helper()
		if err := w.Unwind(t.Context(), Confirmed, to); err != nil {
			t.Fatal(err)
		}
		w.check()
	}
	unwind(b.Number - 1)
	w.want(r, StatusPending, 0)
	w.locked(40)
	if before == w.memory.dump() {
		t.Error("it is not to be asked about again")
	}
	w.registry.said = map[evm.Hash][]guarantee.Answer{} // the block that took its place has no answer
	w.apply(Confirmed, Block{Number: b.Number, Hash: evm.Hash{9}, Time: b.Time}, nil)
	w.ask(start + 21)
	w.want(r, StatusPending, 0)

	// A cancellation is taken back as well.
	w.beats(start+25, start+405)
	b = w.mine(start + 410)
	w.ask(start + 410)
	w.want(r, StatusCancelled, 0)
	w.locked(0)
	unwind(b.Number - 1)
	w.want(r, StatusPending, 0)
	w.locked(40)
}

// A netting that has read a cycle sees that an answer in it was taken back since, or that one has come.
func TestAnswersWhileNetting(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	w.deposit(2, 100)
	r := w.depend(0, 1, 40, start)
	w.owe(2, 1, 10, start)
	w.answer(r, 80, start+50)
	w.beats(start+5, start+105)
	w.mine(start + 110)
	w.ask(start + 110)
	tip := w.standing(r).Guarantee.Validation.Block
	w.closeWhile(start+110, func() {
		if err := w.Unwind(context.Background(), Confirmed, tip-1); err != nil {
			t.Error(err)
		}
	})
	w.status(Frozen)
	w.want(r, StatusPending, 0)
	w.check()
	w.beats(start+131, start+140) // the blocks of before are no more, and nobody is asked in time
	if c := w.status(Committed); units(c.Total) != 10 {
		t.Errorf("total %s", c.Total)
	}

	// A cycle that seemed to have nothing is not closed over an answer.
	w = newJudged(t)
	r = w.depend(0, 1, 40, start)
	w.beats(start+5, start+105)
	w.answer(r, 80, start+106)
	w.mine(start + 110)
	w.registry.down = errors.New("no answer")
	w.mine(start + 130) // the cycle waits no longer
	w.closeWhile(start+130, func() {
		g := w.standing(r).Guarantee
		s := Validation{Cycle: start, Answered: start + 106, Block: 1}
		if err := w.memory.Write(context.Background(), func(tx Tx) error { return tx.PutValidation(g.Digest, g.Payable, s) }); err != nil {
			t.Error(err)
		}
	})
	w.status(Frozen)
	w.closeAt(start + 131)
	w.want(r, StatusNetted, start)
	w.check()
}

// closeWhile runs one pass in which something comes between the reading of a netting and its writing.
func (w *judged) closeWhile(now uint64, then func()) {
	w.Helper()
	again := &interrupted{Book: w.memory, then: then}
	c := w.House.Config
	c.Book = again
	h, err := New(c)
	if err != nil {
		w.Fatal(err)
	}
	if err := h.CloseDue(context.Background(), at(now), now); err != nil {
		w.Fatal(err)
	}
	if again.then != nil {
		w.Fatal("nothing came between")
	}
}

// interrupted runs something between the reading of a netting and its writing.
type interrupted struct {
	Book
	lines bool
	then  func()
}

func (b *interrupted) Read(ctx context.Context, fn func(Tx) error) error {
	return b.Book.Read(ctx, func(tx Tx) error { return fn(&sawLines{tx, b}) })
}

// sawLines notices that a cycle's guarantees are read.
type sawLines struct {
	Tx
	book *interrupted
}

func (tx *sawLines) Lines(c CycleRef) iter.Seq2[[]Line, error] {
	tx.book.lines = true
	return tx.Tx.Lines(c)
}

func (b *interrupted) Write(ctx context.Context, fn func(Tx) error) error {
	if b.lines && b.then != nil {
		then := b.then
		b.then = nil
		then()
	}
	return b.Book.Write(ctx, fn)
}

func TestNotesOnWhatWaits(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	let, less := w.depend(0, 1, 40, start), w.depend(0, 1, 30, start)
	w.beats(start+5, start+150) // its own cycle's cutoff is over
	if err := w.lower(let.Digest, 1, 0, start+150); err != nil {
		t.Fatal(err)
	}
	if err := w.lower(less.Digest, 1, 5, start+150); err != nil {
		t.Fatal(err)
	}
	w.locked(5)
	w.want(let, StatusCancelled, 0)
	w.answer(let, 100, start+151) // has nothing to answer for any more
	w.answer(less, 100, start+151)
	w.beats(start+155, start+215)
	w.want(let, StatusCancelled, 0)
	w.want(less, StatusNetted, start+100)
	if err := w.lower(less.Digest, 1, 1, start+216); !errors.Is(err, ErrCutoff) {
		t.Errorf("a note after netting: %v", err)
	}
	w.locked(0)
}

func TestPoliciesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	base := w.sign(0, 1, 10, start).Claims
	with := func(change func(*guarantee.Policy)) guarantee.Claims {
		p := judge
		change(&p)
		return base.Bind(p)
	}
	unbound := base.Bind(judge)
	unbound.Policy.Subject[0] ^= 1
	for name, c := range map[string]struct {
		claims guarantee.Claims
		want   error
	}{
		"no job":            {with(func(p *guarantee.Policy) { p.JobHash = evm.Hash{} }), guarantee.ErrPolicy},
		"score 0":           {with(func(p *guarantee.Policy) { p.MinScore = 0 }), guarantee.ErrPolicy},
		"score 101":         {with(func(p *guarantee.Policy) { p.MinScore = 101 }), guarantee.ErrPolicy},
		"another chain":     {with(func(p *guarantee.Policy) { p.ChainID = 1 }), guarantee.ErrPolicy},
		"unbound":           {unbound, guarantee.ErrPolicy},
		"somebody's ledger": {with(func(p *guarantee.Policy) { p.Registry = evm.Address{1} }), ErrRegistry},
	} {
		if r := w.admitOne(w.signClaims(0, c.claims), start); !errors.Is(r.Err, c.want) {
			t.Errorf("%s: %v, want %v", name, r.Err, c.want)
		}
	}
	// The same request id without the policy is another guarantee, and so is one with another policy.
	if r := w.admitOne(w.signClaims(0, base.Bind(judge)), start); r.Err != nil {
		t.Fatal(r.Err)
	}
	for _, c := range []guarantee.Claims{base, with(func(p *guarantee.Policy) { p.MinScore = 1 })} {
		if r := w.admitOne(w.signClaims(0, c), start); !errors.Is(r.Err, ErrConflict) {
			t.Errorf("the request id again: %v", r.Err)
		}
	}
	personal := w.signClaims(0, w.sign(0, 1, 10, start).Claims.Bind(judge))
	personal.Form = guarantee.EIP191
	if r := w.admitOne(personal, start); !errors.Is(r.Err, guarantee.ErrForm) {
		t.Errorf("a personal message: %v", r.Err)
	}
	plain := newWorld(t)
	if r := plain.admitOne(w.signClaims(0, base.Bind(judge)), start); !errors.Is(r.Err, guarantee.ErrVersion) {
		t.Errorf("a house that trusts no registry: %v", r.Err)
	}
	if _, err := New(Config{Book: w.memory, Chain: w.chain, Deployment: deployment, Authority: testAuthority, Registries: []evm.Address{trusted}}); err == nil {
		t.Error("a house that cannot ask trusts a registry")
	}
}

// Both versions in one group get batch certificates that verify.
func TestBatchesOfBothVersions(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	var reqs []Request
	for i := range uint64(6) {
		s := w.sign(0, 1, 1+i, start)
		if i%2 == 1 {
			s = w.signJudged(0, 1, 1+i, start)
		}
		reqs = append(reqs, Request{Signed: s, Batch: true})
	}
	v, err := guarantee.NewVerifier(testAuthority.PublicKey(), deployment)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range w.Admit(t.Context(), reqs, at(start)) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if _, err := v.Verify(r.Certificate, reqs[i].Signed.Claims); err != nil || r.Certificate.Batch.Size != 3 {
			t.Errorf("%d of a batch of %d: %v", i, r.Certificate.Batch.Size, err)
		}
	}
}

// However many wait, a pass is bounded, and who waits for long is asked about ever less often.
func TestAskingIsBounded(t *testing.T) {
	t.Parallel()
	w := newJudged(t)
	w.deposit(0, 10_000)
	var reqs []Request
	for range askMax + askPage {
		reqs = append(reqs, Request{Signed: w.signJudged(0, 1, 1, start)})
	}
	for _, r := range w.Admit(t.Context(), reqs, at(start)) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	w.mine(start)
	pass := func(now uint64) int {
		t.Helper()
		w.registry.asked = 0
		if err := w.AskValidators(t.Context(), at(now)); err != nil {
			t.Fatal(err)
		}
		return w.registry.asked
	}
	for i, want := range []int{askMax, askPage, 0} {
		if got := pass(start); got != want {
			t.Errorf("pass %d asked %d, want %d", i, got, want)
		}
	}
	one := newJudged(t)
	one.depend(0, 1, 1, start)
	for now := uint64(start); now < start+100; now++ {
		one.mine(now)
		one.ask(now)
	}
	if one.registry.asked > 40 || one.registry.asked < 10 {
		t.Errorf("asked %d times in 100 seconds", one.registry.asked)
	}
}
