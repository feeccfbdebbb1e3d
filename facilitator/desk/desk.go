package desk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

const (
	// DefaultBatchMax is how many settlements share a transaction: about a third of the gas that one may use.
	DefaultBatchMax = 100

	// DefaultLookback is how many blocks before the first request are searched for somebody else's transaction. An
	// authorization is seldom signed more than some minutes before it is settled.
	DefaultLookback = 2000

	// DefaultOpenMax is how many settlements may wait at once before new ones are turned away.
	DefaultOpenMax = 10_000

	// DefaultInFlight is how many transactions of a lane may wait in the node's pool. Each beyond the first is signed
	// without knowing what those before it do.
	DefaultInFlight = 4

	// Margin is the time that an authorization must have left when it is asked for: what x402 asks for. A chain whose
	// blocks take longer needs two of them.
	Margin = 6 * time.Second

	// Keep is how long a settlement can be asked about after it has ended, and its authorization has expired.
	Keep = 30 * 24 * time.Hour

	pruneMax      = 1000 // in one write
	recheckBlocks = 64   // as chain.RecheckBlocks, which this package cannot name
	searchBlocks  = 1000 // that one question about logs spans
	batchGasMax   = 1 << 24
	typicalGas    = 80_000 // of one transfer by signature, sent alone
)

// Config says what a desk works with. ChainID, Book, Chain and Lanes must be set.
type Config struct {
	ChainID   uint64
	Book      Book
	Chain     Chain
	Lanes     []Lane
	BlockTime time.Duration // 0: not known, taken for a second
	Depth     uint64        // blocks on top of a transaction's block before it counts; the lanes' own

	// Batch lets settlements share a transaction. The chain must have Multicall3.
	Batch    bool
	BatchMax int    // 0: DefaultBatchMax
	InFlight int    // per lane; 0: DefaultInFlight
	Lookback uint64 // blocks; 0: DefaultLookback
	OpenMax  int    // 0: DefaultOpenMax

	// Tokens are those that are settled; empty settles none. Selectors are the calls that are sent; empty sends any.
	Tokens    []evm.Address
	Selectors [][4]byte

	GasPerPayer uint64       // a day, UTC; 0: no limit
	SpendMax    money.Amount // wei a day, UTC, by all lanes; zero: no limit

	// Explain finds out why a settlement was refused, for whoever can ask the chain. An empty code leaves it to the desk,
	// which knows the words of common tokens only.
	Explain func(ctx context.Context, s Settlement, said string) (code, reason string)

	// Ended is told of every settlement that came to an end, and of every one that a reorganisation reopened. It must not
	// block.
	Ended func(Settlement)

	Log *slog.Logger // nil: silence
}

// Desk settles on one chain. Make one with [New].
type Desk struct {
	c    Config
	wake chan struct{}

	pass sync.Mutex               // one pass at a time
	seen evm.BlockRef             // guarded by pass: the head of the last one
	last map[evm.Address]dispatch // guarded by pass: each lane's newest call
	// learned is how much gas kinds of settlements take at most. Guarded by pass.
	learned map[gasKind]uint64

	asks [256]sync.Mutex // by the first byte of an ID: one ask of it at a time

	mu    sync.Mutex
	open  map[evm.Hash]*entry    // guarded by mu: what is queued or sent
	has   map[evm.Address]uint64 // guarded by mu: how many of those each payer has
	day   string                 // guarded by mu
	gas   map[evm.Address]uint64
	wei   money.Amount
	poor  error // guarded by mu: why no lane could pay for gas, when one was last wanted
	head  uint64
	moves uint64 // guarded by mu: calls handed to lanes, and settlements that ended
	ready bool   // guarded by mu: what the book has open is here
}

// entry is an open settlement and whoever waits for it.
type entry struct {
	s    Settlement
	tx   evm.Hash // of the newest attempt; zero until there is one
	done chan struct{}
}

// dispatch is when a lane got its newest call, and whether there was more than it could take.
type dispatch struct {
	at   time.Time
	full bool
}

// New returns a desk. Nothing is asked of book and chain before the first [Desk.Step] or [Desk.Load].
func New(c Config) (*Desk, error) {
	if c.ChainID == 0 || c.Book == nil || c.Chain == nil || len(c.Lanes) == 0 {
		return nil, errors.New("desk: chain, book and at least one lane are needed")
	}
	for i, lane := range c.Lanes {
		if slices.ContainsFunc(c.Lanes[:i], func(l Lane) bool { return l.Address() == lane.Address() }) {
			return nil, fmt.Errorf("desk: lane %s is there twice", lane.Address())
		}
	}
	if c.BlockTime <= 0 {
		c.BlockTime = time.Second
	}
	if c.BatchMax <= 0 {
		c.BatchMax = DefaultBatchMax
	}
	if c.InFlight <= 0 {
		c.InFlight = DefaultInFlight
	}
	if c.Lookback == 0 {
		c.Lookback = DefaultLookback
	}
	if c.OpenMax <= 0 {
		c.OpenMax = DefaultOpenMax
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Desk{
		c: c, wake: make(chan struct{}, 1), last: make(map[evm.Address]dispatch), learned: make(map[gasKind]uint64),
		open: make(map[evm.Hash]*entry), has: make(map[evm.Address]uint64), gas: make(map[evm.Address]uint64),
	}, nil
}

// Lanes returns the accounts that the desk sends from.
func (d *Desk) Lanes() (all []evm.Address) {
	for _, l := range d.c.Lanes {
		all = append(all, l.Address())
	}
	return all
}

// Load takes in what the book has open, for a desk that begins. A settlement on its way from an account that is not one of
// the lanes is an error: only that account's key can bring it to an end.
func (d *Desk) Load(ctx context.Context, now time.Time) error {
	d.mu.Lock()
	ready := d.ready
	d.mu.Unlock()
	if ready {
		return nil
	}
	list, err := d.c.Book.Open(ctx, d.c.ChainID)
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.State == Sent && d.lane(s.From) == nil {
			return fmt.Errorf("settlement %s was sent from %s, which is not a lane: give its key until it has ended", s.ID.Short(), s.From)
		}
	}
	spent, err := d.c.Book.Spent(ctx, d.c.ChainID, Day(now))
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready {
		return nil
	}
	d.turn(now)
	for _, sp := range spent {
		d.count(sp)
	}
	for _, s := range list {
		d.put(s)
	}
	d.ready = true
	return nil
}

// Open returns how many settlements are queued or sent.
func (d *Desk) Open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.open)
}

// Spent returns what the lanes have spent today, in wei.
func (d *Desk) Spent() money.Amount {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wei
}

// Moves counts what has happened: calls handed to lanes and settlements that ended. While it grows, looking again soon is
// worth it.
func (d *Desk) Moves() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.moves
}

// Wake is signalled when there is something new to do.
func (d *Desk) Wake() <-chan struct{} { return d.wake }

// Find returns a settlement by its ID. One that is on its way comes with the hash of its newest transaction in tx.
func (d *Desk) Find(ctx context.Context, id evm.Hash) (s Settlement, tx evm.Hash, found bool, err error) {
	d.mu.Lock()
	if e, ok := d.open[id]; ok {
		s, tx = e.s, e.tx
		d.mu.Unlock()
		return s, tx, true, nil
	}
	d.mu.Unlock()
	s, found, err = d.c.Book.Find(ctx, id)
	return s, s.Tx, found, err
}

// Admit says whether an ask could be settled now: an [*x402.Error] if it could not. It asks neither book nor chain, and
// does not look at the call.
func (d *Desk) Admit(a Ask, now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn(now)
	switch {
	case a.ChainID != d.c.ChainID:
		return x402.Errorf("invalid_network", "payment is for chain %d", a.ChainID)
	case !slices.Contains(d.c.Tokens, a.Asset):
		return x402.Errorf("asset_not_served", "token %s is not settled on eip155:%d", a.Asset, d.c.ChainID)
	case !a.Lane.IsZero() && d.lane(a.Lane) == nil:
		return x402.Errorf("unsupported_payload_type", "only %s may settle it, which is not one of the lanes", a.Lane)
	case !d.inTime(a, now, d.backlog()):
		return x402.Errorf("settlement_too_late", "it is valid until %s, which leaves no time to settle it", time.Unix(int64(min(a.ValidBefore, 1<<40)), 0).UTC().Format(time.RFC3339))
	case d.c.GasPerPayer > 0 && d.gas[a.Payer]+(d.has[a.Payer]+1)*typicalGas > d.c.GasPerPayer:
		return x402.Errorf("gas_budget_exceeded", "settling for %s has used %d gas today, %d are paid a day", a.Payer, d.gas[a.Payer], d.c.GasPerPayer)
	case !d.c.SpendMax.IsZero() && !d.wei.Less(d.c.SpendMax):
		return x402.Errorf("settlement_busy", "the facilitator has spent its gas of the day on eip155:%d", d.c.ChainID)
	case d.poor != nil:
		return x402.Errorf("settlement_busy", "%w", d.poor)
	case len(d.open) >= d.c.OpenMax:
		return x402.Errorf("settlement_busy", "%d payments wait to be settled", len(d.open))
	}
	return nil
}

// Prune forgets settlements that ended [Keep] ago, a few at each call. One stays as long as its authorization could be
// shown again: its record is what says that it was used, where nothing of it was charged.
func (d *Desk) Prune(ctx context.Context, now time.Time) (int, error) {
	return d.c.Book.Prune(ctx, d.c.ChainID, now.Add(-Keep), pruneMax)
}

// inTime reports whether an ask can be mined before it expires, after what waits already.
func (d *Desk) inTime(a Ask, now time.Time, wait time.Duration) bool {
	return a.ValidBefore >= uint64(max(0, now.Add(d.margin()+wait).Unix()))
}

func (d *Desk) margin() time.Duration { return max(Margin, 2*d.c.BlockTime) }

// backlog is about how long what is queued takes to be sent. mu is held.
func (d *Desk) backlog() time.Duration {
	perRound := len(d.c.Lanes) * d.c.BatchMax
	if !d.c.Batch {
		perRound = len(d.c.Lanes) * d.c.InFlight
	}
	return time.Duration(len(d.open)/perRound) * d.c.BlockTime
}

// Ask asks for a settlement, to be sent within a time: at once if that is zero, and always before it expires. Asking again
// returns the settlement as it is. Errors are an [*x402.Error] for what is refused: what [Desk.Admit] refuses, and
// duplicate_settlement for an authorization that was asked for with another content. Any other error says that nothing is
// known to be recorded; asking again finds out. Whoever asks has verified the payment.
func (d *Desk) Ask(ctx context.Context, a Ask, within time.Duration, now time.Time) (Settlement, error) {
	if err := d.Load(ctx, now); err != nil {
		return Settlement{}, err
	}
	one := &d.asks[a.ID[0]]
	one.Lock()
	defer one.Unlock()
	old, _, found, err := d.Find(ctx, a.ID)
	switch {
	case err != nil:
		return Settlement{}, err
	case found && !old.Same(a) && !(old.retriable() && old.Tries == 0):
		return Settlement{}, x402.Errorf("duplicate_settlement", "the authorization was used for %s units of %s to %s", old.Amount, old.Asset, old.Payee)
	case found && !old.retriable():
		d.adopt(old)
		return old, nil
	}
	if err := d.Admit(a, now); err != nil {
		return Settlement{}, err
	}
	if len(d.c.Selectors) > 0 && !a.Amount.IsZero() && (len(a.Data) < 4 || !slices.Contains(d.c.Selectors, [4]byte(a.Data[:4]))) {
		return Settlement{}, x402.Errorf("call_not_served", "the call that would settle it is not one that is sent")
	}
	if a.Amount.IsZero() { // an upto of which nothing is charged: only its record uses it up
		s := Settlement{Ask: a, State: Settled, AskedAt: now.UTC(), Due: now.UTC(), DoneAt: now.UTC()}
		if found {
			s.Tries = old.Tries
		}
		got, _, err := d.c.Book.Record(ctx, s)
		return got, err
	}
	if a.Shared { // an account with code could burn its neighbours' gas in its signature check
		code, err := d.c.Chain.Code(ctx, a.Payer)
		if err != nil {
			return Settlement{}, err
		}
		a.Shared = len(code) == 0 && len(a.Steps) == 0 && a.Lane.IsZero() && a.Mark == MarkNonce
	}
	d.mu.Lock()
	since := d.head
	d.mu.Unlock()
	if since == 0 {
		head, err := d.c.Chain.Head(ctx)
		if err != nil {
			return Settlement{}, err
		}
		since = head.Number
	}
	latest := time.Unix(int64(min(a.ValidBefore, 1<<40)), 0).Add(-d.margin() - d.c.BlockTime)
	due := now.Add(max(0, within))
	if due.After(latest) {
		due = latest
	}
	if due.Before(now) {
		due = now
	}
	s := Settlement{Ask: a, State: Queued, AskedAt: now.UTC(), Due: due.UTC(), Since: since}
	if found { // it failed without having moved anything, and is tried again
		s.Alone, s.Tries, s.Since = true, old.Tries, min(since, old.Since)
		s.GasBefore = old.Gas + old.GasBefore
		s.CostBefore = old.TotalCost()
	}
	if err := s.Check(); err != nil {
		return Settlement{}, fmt.Errorf("settlement %s: %w", s.ID.Short(), err)
	}
	got, fresh, err := d.c.Book.Record(ctx, s)
	switch {
	case err != nil:
		return Settlement{}, err
	case !fresh:
		return Settlement{}, fmt.Errorf("settlement %s was recorded by somebody else: two desks share a book", s.ID.Short())
	}
	d.mu.Lock()
	d.put(got)
	d.mu.Unlock()
	d.signal()
	return got, nil
}

// Look looks on the chain for the transaction of an ask that is not to be settled any more, whoever sent it. It records
// nothing.
func (d *Desk) Look(ctx context.Context, a Ask, now time.Time) (Settlement, bool, error) {
	head, err := d.c.Chain.Head(ctx)
	if err != nil {
		return Settlement{}, false, err
	}
	s := Settlement{Ask: a, State: Settled, AskedAt: now.UTC(), Due: now.UTC(), DoneAt: now.UTC(), Since: head.Number, Foreign: true}
	receipt, found, err := d.find(ctx, s, head)
	if err != nil || found != moved || receipt.BlockNumber+d.c.Depth > head.Number {
		return Settlement{}, false, err
	}
	return mined(s, *receipt), true, nil
}

// Wait returns a settlement once it is final, or as it is when ctx ends, with the hash of its newest transaction if it
// has one. The error is never that of ctx.
func (d *Desk) Wait(ctx context.Context, id evm.Hash) (Settlement, evm.Hash, error) {
	d.mu.Lock()
	e, ok := d.open[id]
	d.mu.Unlock()
	if ok {
		select {
		case <-e.done:
		case <-ctx.Done():
		}
	}
	s, tx, found, err := d.Find(context.WithoutCancel(ctx), id)
	if err == nil && !found {
		err = fmt.Errorf("settlement %s: there is none", id.Short())
	}
	return s, tx, err
}

func (d *Desk) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// put takes an open settlement into memory; mu is held.
func (d *Desk) put(s Settlement) {
	if e, ok := d.open[s.ID]; ok {
		e.s = s
		return
	}
	d.open[s.ID] = &entry{s: s, done: make(chan struct{})}
	d.has[s.Payer]++
}

// drop lets go of a settlement that is final; mu is held.
func (d *Desk) drop(id evm.Hash) {
	e, ok := d.open[id]
	if !ok {
		return
	}
	delete(d.open, id)
	if d.has[e.s.Payer]--; d.has[e.s.Payer] == 0 {
		delete(d.has, e.s.Payer)
	}
	close(e.done)
}

// adopt takes in an open settlement that is recorded and not in memory: the answer to recording it was lost. The caller
// holds the lock of its ID.
func (d *Desk) adopt(s Settlement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, here := d.open[s.ID]; s.State == Queued && !here {
		d.put(s)
		d.signal()
	}
}

// turn begins a new day of spending; mu is held.
func (d *Desk) turn(now time.Time) {
	if day := Day(now); day != d.day {
		d.day, d.gas, d.wei = day, make(map[evm.Address]uint64), money.Amount{}
	}
}

// count adds to what was spent today; mu is held.
func (d *Desk) count(sp Spending) {
	switch {
	case sp.Day != d.day:
	case sp.Lane:
		if sum, ok := d.wei.Add(sp.Wei); ok {
			d.wei = sum
		}
	default:
		d.gas[sp.Account] += sp.Gas
	}
}

func (d *Desk) lane(address evm.Address) Lane {
	for _, l := range d.c.Lanes {
		if l.Address() == address {
			return l
		}
	}
	return nil
}

// save writes settlements and what they cost, and then makes memory agree.
func (d *Desk) save(ctx context.Context, changed []Settlement, spent []Spending, now time.Time) error {
	for i := range changed {
		if changed[i].State.Final() && changed[i].DoneAt.IsZero() {
			changed[i].DoneAt = now.UTC()
		}
		if err := changed[i].Check(); err != nil {
			return fmt.Errorf("settlement %s: %w", changed[i].ID.Short(), err)
		}
	}
	if err := d.c.Book.Save(ctx, changed, spent); err != nil {
		return err
	}
	d.mu.Lock()
	d.turn(now)
	for _, sp := range spent {
		d.count(sp)
	}
	var ended []Settlement
	for _, s := range changed {
		if !s.State.Final() {
			d.put(s)
			continue
		}
		d.drop(s.ID)
		d.moves++
		ended = append(ended, s)
	}
	d.mu.Unlock()
	for _, s := range ended {
		d.tell(s)
	}
	return nil
}

func (d *Desk) tell(s Settlement) {
	if s.State == Settled {
		d.c.Log.Info("payment settled", "settlement", s.Ask, "tx", s.Tx, "foreign", s.Foreign, "gas", s.Gas, "cost_wei", s.TotalCost().String(), "elapsed", s.DoneAt.Sub(s.AskedAt))
	} else {
		d.c.Log.Warn("payment not settled", "settlement", s.Ask, "code", s.Code, "reason", s.Reason, "tx", s.Tx, "gas", s.Gas)
	}
	if d.c.Ended != nil {
		d.c.Ended(s)
	}
}
