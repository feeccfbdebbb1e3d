package sim

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

var (
	seedFlag  = flag.Uint64("sim.seed", 0, "run this one world only")
	stepsFlag = flag.Int("sim.steps", 300, "steps of a world")
	traceFlag = flag.Bool("sim.trace", false, "log every step")
)

const (
	genesis   = 1_800_000_000
	delay     = 98 // W
	depth     = 3  // blocks on top of one before it is confirmed
	partyMax  = 6
	minted    = 3000
	deposited = 300
)

var (
	deployment = guarantee.Deployment{
		ChainID: 31337, Name: "4Mica 0x5555555555555555555555555555555555555555", Version: "1",
		Vault: evm.Address{0x55}, ClearingHouse: evm.Address{0x77},
	}
	operator  = evm.Address{0x0e}
	assets    = []evm.Address{{0xd0}, {0xd1}}
	schedules = []clearing.Schedule{
		{Asset: assets[0], From: genesis, Length: 8, Cutoff: 2, Post: 20, Challenge: 8, Repost: 10, Redeem: 5},
		{Asset: assets[1], From: genesis, Length: 10, Cutoff: 1, Post: 18, Challenge: 6, Repost: 8, Redeem: 5},
	}
	parties = func() (keys []*evm.PrivateKey) {
		for i := range partyMax {
			secret := evm.Keccak256([]byte("party"), []byte{byte(i)})
			key, err := evm.NewKey(secret[:])
			if err != nil {
				panic(err)
			}
			keys = append(keys, key)
		}
		return keys
	}()
	authority = func() *guarantee.Authority {
		secret := evm.Keccak256([]byte("authority"))
		secret[0] = 0
		a, err := guarantee.NewAuthority(secret[:])
		if err != nil {
			panic(err)
		}
		return a
	}()
)

// profile says what may go wrong in a world. Probabilities are in percent.
type profile struct {
	name     string
	bookFail int  // a use of the book fails
	lost     int  // a reply never reaches its caller
	sending  int  // a transaction is lost, or sent twice
	late     int  // a transaction waits for another block
	crash    int  // weight of killing the process
	reorg    int  // weight of a reorganisation
	deepest  int  // blocks that one drops; more than depth breaks what was confirmed
	stall    int  // weight of a chain that takes nothing for a while
	void     int  // weight of a voided cycle
	limits   bool // owners change their limits
	reckless bool // the operator believes the newest block, so that deposits vanish under guarantees
}

var profiles = []profile{
	{name: "calm"},
	{name: "lossy", bookFail: 2, lost: 10, sending: 15, late: 10, crash: 3, reorg: 3, deepest: depth},
	{name: "stormy", bookFail: 2, lost: 10, sending: 20, late: 20, crash: 3, reorg: 4, deepest: 12, stall: 1, limits: true},
	{name: "disputed", bookFail: 1, lost: 5, sending: 10, late: 10, crash: 2, reorg: 3, deepest: 8, stall: 1, void: 3, limits: true},
	{name: "reckless", lost: 5, sending: 5, late: 10, crash: 2, reorg: 6, deepest: 6, stall: 1, limits: true, reckless: true},
}

// held is a certificate that a payee holds.
type held struct {
	signed guarantee.Signed
	digest evm.Hash
	cert   guarantee.Certificate
	cycle  clearing.CycleRef
}

// backing is a book and its outbox, and how to open the book again after a kill, if that means anything to it.
type backing struct {
	clearing.Book
	Outbox
	reopen func() (clearing.Book, Outbox, error)
}

// world is everything that happens from one seed. One goroutine runs it.
type world struct {
	profile
	seed     uint64
	rng      *rand.Rand
	now      uint64
	chain    *Chain
	registry clearing.Registry
	sender   *Sender
	backing  backing
	book     *faultyBook
	houses   [2]*clearing.House
	auditor  *clearing.House // over the true book
	verifier *guarantee.Verifier
	confirm  uint64 // depth of the confirmed stream
	floor    uint64 // blocks up to this one are never replaced

	armed   int // uses of the book until the process dies; 0 is never
	stalled uint64

	ids      uint64
	signed   map[evm.Hash]guarantee.Signed // everything that a payer signed, by digest
	certs    []held
	byDigest map[evm.Hash]int // into certs, the first
	unknown  []guarantee.Signed
	refused  map[evm.Hash]error
	notes    map[evm.Hash][]money.Amount // signed by the payee
	acked    map[evm.Hash]money.Amount   // the lowest that a house took
	posted   map[evm.Hash]bool           // checked postings, by cycle and root
	checked  int                         // writes when the book was last proven
	covered  int                         // how often refunds were seen that claims back
	carried  int                         // how often guarantees were seen that a later cycle nets than their certificate's
	given    int                         // and those that were never validated in time

	trace  func(format string, args ...any)
	digest []byte // of the whole trace
}

func newWorld(seed uint64, p profile, b backing) (*world, error) {
	w := &world{
		profile: p, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5eed)), now: genesis, backing: b, confirm: depth,
		signed: make(map[evm.Hash]guarantee.Signed), byDigest: make(map[evm.Hash]int), refused: make(map[evm.Hash]error),
		notes: make(map[evm.Hash][]money.Amount), acked: make(map[evm.Hash]money.Amount), posted: make(map[evm.Hash]bool),
		trace: func(string, ...any) {},
	}
	if p.reckless {
		w.confirm = 0
	}
	var err error
	if w.chain, err = New(deployment, operator, delay, genesis, schedules...); err != nil {
		return nil, err
	}
	w.registry = w.chain
	if w.verifier, err = guarantee.NewVerifier(authority.PublicKey(), deployment); err != nil {
		return nil, err
	}
	w.sender = &Sender{Chain: w.chain, Outbox: b.Outbox, Depth: depth}
	w.book = &faultyBook{inner: b.Book, next: func(bool) (fault, bool) { return noFault, false }}
	if err := w.rebuild(); err != nil {
		return nil, err
	}
	first := money.Units(deposited)
	if p.reckless {
		first = money.Units(10) // most collateral comes later, where a reorganisation can take it
	}
	for _, asset := range assets {
		w.chain.Mint(operator, asset, money.Units(500))
		w.chain.DepositBond(asset, money.Units(200))
		for _, key := range parties {
			w.chain.Mint(key.Address(), asset, money.Units(minted))
			w.chain.Deposit(key.Address(), asset, first)
		}
	}
	for range depth + 2 {
		w.now++
		w.chain.Mine(w.now, nil)
	}
	w.floor = 2 // everybody has money
	if err := w.follow(w.houses[0]); err != nil {
		return nil, err
	}
	w.book.next = w.nextFault
	return w, nil
}

// rebuild makes the houses anew over the book, as a process that starts does.
func (w *world) rebuild() error {
	w.book.dead, w.armed = false, 0
	config := clearing.Config{
		Book: w.book, Chain: w.chain, Deployment: deployment, Authority: authority,
		Registries: []evm.Address{Registry}, Registry: w.registry,
		Past: 20 * time.Second, Future: 5 * time.Second, BatchMax: 3, ChunkMax: 2,
	}
	for i := range w.houses {
		h, err := clearing.New(config)
		if err != nil {
			return err
		}
		w.houses[i] = h
	}
	config.Book = w.book.inner
	var err error
	w.auditor, err = clearing.New(config)
	return err
}

func (w *world) nextFault(write bool) (fault, bool) {
	if w.armed > 0 {
		if w.armed--; w.armed == 0 {
			if !write {
				return failBefore, true
			}
			return []fault{failBefore, failInside, failAfter}[w.rng.IntN(3)], true
		}
	}
	switch {
	case w.percent(w.bookFail):
		if !write {
			return failBefore, false
		}
		return []fault{failBefore, failInside, failAfter}[w.rng.IntN(3)], false
	case write && w.bookFail > 0 && w.percent(5):
		return runTwice, false
	}
	return noFault, false
}

func (w *world) percent(p int) bool { return p > 0 && w.rng.IntN(100) < p }

func (w *world) house() *clearing.House { return w.houses[w.rng.IntN(len(w.houses))] }

func (w *world) time() time.Time { return time.Unix(int64(w.now), 0) }

func (w *world) party() evm.Address { return parties[w.rng.IntN(len(parties))].Address() }

func keyOf(who evm.Address) *evm.PrivateKey {
	for _, k := range parties {
		if k.Address() == who {
			return k
		}
	}
	return nil
}

func (w *world) asset() evm.Address { return assets[w.rng.IntN(len(assets))] }

func (w *world) amount(most int) money.Amount { return money.Units(uint64(1 + w.rng.IntN(most))) }

// tolerated returns an error unless faults that the caller felt explain it.
func (w *world) tolerated(faults int, err error) error {
	if err == nil || w.book.faults > faults || w.book.dead {
		return nil
	}
	return err
}

type action struct {
	name   string
	weight int
	do     func(*world) (string, error)
}

func (w *world) actions() []action {
	limits := 0
	if w.limits {
		limits = 2
	}
	return []action{
		{"beat", 34, (*world).beat},
		{"admit", 28, (*world).admit},
		{"ask again", 4, (*world).askAgain},
		{"note", 10, (*world).note},
		{"deposit", 4, (*world).deposit},
		{"withdraw", 5, (*world).withdraw},
		{"pay", 5, (*world).pay},
		{"claim", 6, (*world).claim},
		{"validate", 8, (*world).validate},
		{"settle by choice", 1, (*world).autoSettle},
		{"limit", limits, (*world).limit},
		{"signer", 2, (*world).signer},
		{"crash", w.crash, (*world).crashSoon},
		{"reorg", w.reorg, (*world).reorganise},
		{"stall", w.stall, (*world).stallChain},
		{"void", w.void, (*world).voidCycle},
		{"wait", 1, (*world).wait},
		{"announce", 1, (*world).announce},
	}
}

// step does one thing and checks everything.
func (w *world) step() error {
	if w.book.dead {
		if w.backing.reopen != nil {
			book, outbox, err := w.backing.reopen()
			if err != nil {
				return fmt.Errorf("reopen: %w", err)
			}
			w.book.inner, w.sender.Outbox = book, outbox
		}
		if err := w.rebuild(); err != nil {
			return err
		}
		w.log("restart")
	}
	actions := w.actions()
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := w.rng.IntN(total)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			said, err := a.do(w)
			w.log("%s: %s", a.name, said)
			if err == nil {
				err = w.check()
			}
			if err != nil {
				return fmt.Errorf("%s (%s): %w", a.name, said, err)
			}
			return nil
		}
	}
	return nil
}

func (w *world) log(format string, args ...any) {
	line := fmt.Sprintf("%d "+format, append([]any{w.now - genesis}, args...)...)
	w.trace("%s", line)
	sum := evm.Keccak256(w.digest, []byte(line))
	w.digest = sum[:]
}

// beat is what cmd/farthing does twice a second: send, follow, close; and a block of the chain.
func (w *world) beat() (string, error) {
	w.now += uint64(1 + w.rng.IntN(2))
	faults := w.book.faults
	if w.now >= w.stalled {
		if err := w.sender.Step(w.fate); err != nil {
			return "", err
		}
	}
	b := w.mine()
	said := fmt.Sprintf("block %d", b.Number)
	h := w.house()
	if w.percent(90) {
		if err := w.tolerated(faults, w.follow(h)); err != nil {
			return said, err
		}
	}
	if w.percent(90) {
		if err := w.tolerated(faults, h.AskValidators(context.Background(), w.time())); err != nil {
			return said, err
		}
	}
	if w.percent(90) {
		return said, w.tolerated(faults, h.CloseDue(context.Background(), w.time(), w.chain.Head().Time))
	}
	return said, nil
}

func (w *world) mine() clearing.Block {
	b := w.chain.Mine(w.now, func(Tx) bool { return w.now >= w.stalled && !w.percent(w.late) })
	for _, tx := range w.chain.known[b.Hash].txs {
		w.trace("  %s of %s: %v", tx.op.Kind, tx.From.Short(), w.chain.known[b.Hash].outcomes[tx.Hash])
	}
	return b
}

func (w *world) fate(evm.Call) Delivery {
	if w.percent(w.sending) {
		return []Delivery{Lost, Twice}[w.rng.IntN(2)]
	}
	return Delivered
}

func (w *world) follow(h *clearing.House) error {
	if err := Follow(context.Background(), h, clearing.Head, w.chain, 0); err != nil {
		return err
	}
	return Follow(context.Background(), h, clearing.Confirmed, w.chain, w.confirm)
}

func (w *world) wait() (string, error) {
	w.now += uint64(2 + w.rng.IntN(5))
	_, err := w.beat()
	return "", err
}

func (w *world) deposit() (string, error) {
	who, asset, amount := w.party(), w.asset(), w.amount(300)
	w.chain.Deposit(who, asset, amount)
	if w.percent(20) {
		w.chain.DepositBond(asset, w.amount(20))
	}
	return fmt.Sprintf("%s of %s by %s", amount, asset.Short(), who.Short()), nil
}

// withdraw asks for collateral, also while it is exposed, takes a request back, or finishes it.
func (w *world) withdraw() (string, error) {
	if n := w.finishDue(); n > 0 {
		return fmt.Sprintf("finish %d", n), nil
	}
	who, asset := w.party(), w.asset()
	if requested := w.chain.at(evm.Hash{}).accounts[ownerAsset{who, asset}].requestedAt; requested != 0 {
		if w.percent(10) {
			w.chain.CancelWithdrawal(who, asset)
			return "cancel " + who.Short(), nil
		}
		w.chain.FinalizeWithdrawal(who, asset) // refused while it is too early
		return "finish " + who.Short(), nil
	}
	amount := w.amount(deposited)
	w.chain.RequestWithdrawal(who, asset, amount)
	return fmt.Sprintf("request %s by %s", amount, who.Short()), nil
}

// finishDue has everybody withdraw whose delay has passed.
func (w *world) finishDue() (n int) {
	for _, asset := range assets {
		for _, key := range parties {
			a := w.chain.at(evm.Hash{}).accounts[ownerAsset{key.Address(), asset}]
			if a.requestedAt != 0 && w.now >= a.requestedAt+delay {
				w.chain.FinalizeWithdrawal(key.Address(), asset)
				n++
			}
		}
	}
	return n
}

func (w *world) autoSettle() (string, error) {
	who := w.party()
	w.chain.SetAutoSettle(who, w.percent(60))
	return who.Short(), nil
}

// announce sets an asset's second schedule, for cycles that start when everybody could have left.
func (w *world) announce() (string, error) {
	list := w.chain.at(evm.Hash{}).schedules[w.asset()]
	if len(list) > 1 {
		return "nothing", nil
	}
	s := list[0]
	s.From += (w.now + delay - s.From + 3*s.Length) / s.Length * s.Length
	s.Length -= uint64(w.rng.IntN(3))
	s.Cutoff++
	w.chain.SetSchedule(s)
	return fmt.Sprintf("%s from %d", s.Asset.Short(), s.From-genesis), nil
}

func (w *world) limit() (string, error) {
	who := w.party()
	w.chain.SetLimit(who, w.asset(), w.amount(500), w.percent(70))
	return who.Short(), nil
}

func (w *world) crashSoon() (string, error) {
	w.armed = 1 + w.rng.IntN(6)
	return fmt.Sprintf("in %d uses of the book", w.armed), nil
}

func (w *world) stallChain() (string, error) {
	w.stalled = w.now + uint64(5+w.rng.IntN(40))
	return fmt.Sprintf("until %d", w.stalled-genesis), nil
}

// reorganise replaces the newest blocks. What they held is mined again, or later, or never; sometimes the chain is
// shorter for a while.
func (w *world) reorganise() (string, error) {
	n := min(1+w.rng.IntN(w.deepest), int(w.chain.Head().Number-w.floor))
	if n == 0 {
		return "none", nil
	}
	txs := w.chain.Drop(n)
	for _, tx := range txs {
		if tx.laned || !w.percent(30) && !(w.reckless && tx.op.Kind == opDeposit) {
			w.chain.Resend(tx)
		}
	}
	back := n + w.rng.IntN(2)
	if w.percent(20) {
		back = w.rng.IntN(n)
	}
	for range back {
		w.chain.Mine(0, func(Tx) bool { return !w.percent(25) })
	}
	return fmt.Sprintf("%d blocks, %d back", n, back), nil
}

// sealedCycles returns the cycles that the chain has sealed, in order.
func (w *world) sealedCycles() (list []*cycle) {
	for _, c := range w.chain.at(evm.Hash{}).cycles {
		if c.status == sealed || c.status == final {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *cycle) int {
		return cmp.Or(slices.Compare(a.ref.Asset[:], b.ref.Asset[:]), cmp.Compare(a.ref.Start, b.ref.Start))
	})
	return list
}

func (w *world) voidCycle() (string, error) {
	list := w.sealedCycles()
	if len(list) == 0 {
		return "none", nil
	}
	c := list[len(list)-1-w.rng.IntN(min(3, len(list)))]
	w.chain.Void(c.ref.ID())
	return c.ref.String(), nil
}

// pay pays a debit that is still open, of a cycle as the house shows it to the debtor.
func (w *world) pay() (string, error) { return w.participate(clearing.Debtor) }

// claim collects a credit, to the wallet or to the vault.
func (w *world) claim() (string, error) { return w.participate(clearing.Creditor) }

func (w *world) participate(role clearing.Role) (string, error) {
	list := w.sealedCycles()
	if len(list) == 0 {
		return "none", nil
	}
	c := list[w.rng.IntN(len(list))]
	for _, chunk := range c.chunks {
		for _, p := range parsePositions(chunk) {
			if p.role != role || w.percent(50) {
				continue
			}
			faults := w.book.faults
			proof, err := w.house().Proof(context.Background(), c.ref.String(), p.participant)
			if err != nil {
				return c.ref.String(), w.tolerated(faults, err)
			}
			w.send(role, proof)
		}
	}
	return c.ref.String(), nil
}

func (w *world) send(role clearing.Role, proof clearing.Proof) {
	id, p := proof.Cycle.Ref.ID(), proof.Position
	switch {
	case role == clearing.Debtor:
		w.chain.Pay(p.Participant, id, p.Amount, proof.Siblings)
	case w.percent(50):
		w.chain.ClaimToVault(p.Participant, id, p.Amount, proof.Siblings)
	default:
		w.chain.Claim(p.Participant, id, p.Amount, proof.Siblings)
	}
}

// run runs a world to its end and returns the error of the first step that broke a rule.
func (w *world) run(steps int) error {
	for i := range steps {
		if err := w.step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	if err := w.quiesce(); err != nil {
		return fmt.Errorf("after %d steps: %w", steps, err)
	}
	return nil
}

func memory() backing {
	m := clearing.NewMemory()
	return backing{Book: m, Outbox: m}
}

func profileOf(seed uint64) profile { return profiles[seed%uint64(len(profiles))] }

// replay is the line that runs a world again.
func replay(seed uint64, steps int, p profile, err error) string {
	return fmt.Sprintf("%s world: %v; run it again: go test ./internal/sim -run 'TestWorld$' -sim.seed=%d -sim.steps=%d", p.name, err, seed, steps)
}

// Worlds run from seeds: those given by -sim.seed, or as many as FARTHING_SIM_SEEDS says.
func TestWorld(t *testing.T) {
	var covered, carried, given atomic.Int64
	t.Cleanup(func() {
		if covered.Load() == 0 && *seedFlag == 0 {
			t.Error("in no world claims backed a refund")
		}
		if (carried.Load() == 0 || given.Load() == 0) && *seedFlag == 0 {
			t.Error("in no world a validator answered late, or never")
		}
	})
	eachSeed(t, 15, func(seed uint64) string { return profileOf(seed).name }, func(t *testing.T, seed uint64) {
		p := profileOf(seed)
		w, err := newWorld(seed, p, memory())
		if err != nil {
			t.Fatal(err)
		}
		if *traceFlag {
			w.trace = t.Logf
		}
		if err := w.run(*stepsFlag); err != nil {
			t.Fatal(replay(seed, *stepsFlag, p, err))
		}
		covered.Add(int64(w.covered))
		carried.Add(int64(w.carried))
		given.Add(int64(w.given))
	})
}

// eachSeed runs one from seeds: the one that -sim.seed gives, or as many as FARTHING_SIM_SEEDS says, else usual.
func eachSeed(t *testing.T, usual uint64, name func(seed uint64) string, one func(t *testing.T, seed uint64)) {
	if *seedFlag != 0 {
		one(t, *seedFlag)
		return
	}
	seeds := usual
	if s := os.Getenv("FARTHING_SIM_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatalf("FARTHING_SIM_SEEDS: %v", err)
		}
		seeds = n
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		t.Run(fmt.Sprintf("%s-%d", name(seed), seed), func(t *testing.T) {
			t.Parallel()
			one(t, seed)
		})
	}
}

// A world is a function of its seed: without that, the line that a failure prints would be worth nothing.
func TestWorldRepeatsItself(t *testing.T) {
	t.Parallel()
	var digests [2]string
	for i := range digests {
		w, err := newWorld(7, profiles[3], memory())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.run(150); err != nil {
			t.Fatal(err)
		}
		digests[i] = fmt.Sprintf("%x", w.digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("one seed made two worlds: %s and %s", digests[0], digests[1])
	}
}

var errWorld = errors.New("the world broke a rule")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errWorld}, args...)...)
}
