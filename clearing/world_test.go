package clearing

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// The tests' deployment, asset and schedule. Cycles take 100 s, and the first begins at start.
var (
	deployment = guarantee.Deployment{
		ChainID: 31337, Name: "4Mica 0x5555555555555555555555555555555555555555", Version: "1",
		Vault: evm.Address{0x55}, ClearingHouse: evm.Address{0x77},
	}
	dollar   = evm.Address{0xd0}
	schedule = Schedule{Asset: dollar, From: start, Length: 100, Cutoff: 10, Post: 40, Challenge: 40, Repost: 40, Redeem: 100}
	operator = evm.Address{0x0e}
)

const start = 1_000_000

// tester is what *testing.T, *testing.B and *rapid.T have in common.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

var testKeys = func() []*evm.PrivateKey {
	keys := make([]*evm.PrivateKey, 12)
	for i := range keys {
		secret := evm.Keccak256([]byte("key"), []byte{byte(i)})
		key, err := evm.NewKey(secret[:])
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
}()

var testAuthority = func() *guarantee.Authority {
	secret := evm.Keccak256([]byte("authority"))
	secret[0] = 0
	a, err := guarantee.NewAuthority(secret[:])
	if err != nil {
		panic(err)
	}
	return a
}()

// world is a house over a book in memory and a chain that follows the contract's rules.
type world struct {
	tester
	*House
	memory *Memory
	chain  *simChain
	ids    uint64
}

func newWorld(t tester, change ...func(*Config)) *world {
	t.Helper()
	m := NewMemory()
	w := &world{tester: t, memory: m, chain: newSimChain()}
	c := Config{Book: m, Chain: w.chain, Deployment: deployment, Authority: testAuthority}
	for _, f := range change {
		f(&c)
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.House = h
	w.chain.emit(Event{Kind: ScheduleSet, Asset: dollar, Schedule: &schedule})
	w.mine(start)
	return w
}

func party(i int) evm.Address { return testKeys[i].Address() }

func at(seconds uint64) time.Time { return time.Unix(int64(seconds), 0) }

// mine makes a block at a time in which every queued call is executed, and applies it on both streams. Each time a reorg
// puts the same events into another block first: what they changed must be taken back to the byte.
func (w *world) mine(t uint64) Block {
	w.Helper()
	b, events := w.chain.block(t, w.memory)
	if b.Number > 1 { // some block must stay
		other := b
		other.Hash[0] ^= 1
		before := w.memory.dump()
		for _, s := range []Stream{Head, Confirmed} {
			w.apply(s, other, events)
		}
		for _, s := range []Stream{Confirmed, Head} {
			if err := w.Unwind(context.Background(), s, b.Number-1); err != nil {
				w.Fatal(err)
			}
		}
		if after := w.memory.dump(); after != before {
			w.Fatalf("not taken back:\n%s\nwant\n%s", diff(after, before), diff(before, after))
		}
	}
	w.apply(Head, b, events)
	w.apply(Confirmed, b, events)
	return b
}

// diff returns the lines of a that b has not.
func diff(a, b string) string {
	have := strings.Split(b, "\n")
	return strings.Join(slices.DeleteFunc(strings.Split(a, "\n"), func(l string) bool { return slices.Contains(have, l) }), "\n")
}

func (w *world) apply(s Stream, b Block, events []Event) {
	w.Helper()
	if err := w.Apply(context.Background(), s, b, events); err != nil {
		w.Fatal(err)
	}
}

func (w *world) deposit(who int, amount uint64) {
	w.Helper()
	w.chain.deposit(party(who), money.Units(amount))
	w.mine(w.chain.time)
}

// sign makes a guarantee that nobody has made before.
func (w *world) sign(payer, payee int, amount, timestamp uint64) guarantee.Signed {
	w.Helper()
	w.ids++
	var id evm.Hash
	binary.BigEndian.PutUint64(id[24:], w.ids)
	return w.signClaims(payer, guarantee.Claims{
		Payer: party(payer), Payee: party(payee), Asset: dollar, ReqID: id, Amount: money.Units(amount), Timestamp: timestamp,
	})
}

func (w *world) signClaims(payer int, c guarantee.Claims) guarantee.Signed {
	w.Helper()
	s, err := guarantee.Sign(context.Background(), testKeys[payer], deployment, c)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) admitOne(s guarantee.Signed, now uint64) Result {
	return w.Admit(context.Background(), []Request{{Signed: s}}, at(now))[0]
}

// owe admits a guarantee and fails if it is refused.
func (w *world) owe(payer, payee int, amount, now uint64) Result {
	w.Helper()
	r := w.admitOne(w.sign(payer, payee, amount, now), now)
	if r.Err != nil {
		w.Fatal(r.Err)
	}
	return r
}

func (w *world) lower(digest evm.Hash, payee int, amount, now uint64) error {
	w.Helper()
	n, err := guarantee.SignNote(context.Background(), testKeys[payee], deployment, guarantee.Note{Digest: digest, Amount: money.Units(amount)})
	if err != nil {
		w.Fatal(err)
	}
	return w.Note(context.Background(), []guarantee.SignedNote{n}, at(now))[0]
}

func (w *world) account(who int) Account {
	w.Helper()
	a, err := w.House.Account(context.Background(), party(who), dollar)
	if err != nil {
		w.Fatal(err)
	}
	return a
}

func (w *world) cycleAt(startAt uint64) Cycle {
	w.Helper()
	c, err := w.House.Cycle(context.Background(), CycleRef{dollar, startAt}.String())
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func (w *world) check() {
	w.Helper()
	if err := w.Check(context.Background()); err != nil {
		w.Fatal(err)
	}
}

// closeAt runs one pass at a time, by both clocks, and then mines what it asked for.
func (w *world) closeAt(t uint64) {
	w.Helper()
	w.mine(t)
	if err := w.CloseDue(context.Background(), at(t), t); err != nil {
		w.Fatal(err)
	}
	w.mine(t)
}

func (w *world) status(want CycleStatus) Cycle {
	w.Helper()
	c := w.cycleAt(start)
	if c.Status != want {
		w.Fatalf("cycle is %s (%s), want %s", c.Status, c.Trouble, want)
	}
	return c
}

// units is for comparing amounts in tests.
func units(a money.Amount) uint64 {
	n, ok := a.Uint64()
	if !ok {
		panic("amount too large for a test")
	}
	return n
}

// dump writes everything that a book says, so that two states can be compared. Gross sums of accounts are in it.
func (m *Memory) dump() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var lines []string
	line := func(what string, k, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		lines = append(lines, fmt.Sprintf("%s %v %s", what, k, b))
	}
	for k, v := range m.accounts {
		line("account", k, v)
	}
	for k, v := range m.balances {
		line("balance", k, v)
	}
	for k, v := range m.transfers {
		line("transfer", k, v)
	}
	for k, v := range m.guarantees {
		line("guarantee", k, v)
	}
	for k, v := range m.keys {
		line("key", k, v)
	}
	for k, v := range m.inCycle {
		line("in cycle", k, v)
	}
	for k, v := range m.ofParty {
		line("of party", k, v)
	}
	for k, v := range m.payable {
		line("payable", k, v)
	}
	for k, v := range m.cycles {
		line("cycle", k, v)
	}
	for k, v := range m.positions {
		line("positions", k, v.list)
	}
	for k, v := range m.schedules {
		line("schedules", k, v)
	}
	for k, v := range m.signers {
		line("signer", k, v)
	}
	for k, v := range m.blocks {
		for _, b := range v {
			line("block", k, b.Block)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// simCall is what simChain packs a call into.
type simCall struct {
	Kind              string
	Ref               CycleRef
	Cycle             evm.Hash
	Generation, Chunk uint64
	Height            uint8
	Positions         []byte
	Root              evm.Hash
	Total             money.Amount
	Deadline          uint64
	Debtor            evm.Address
	Amount            money.Amount
	Proof             []evm.Hash
}

// simChain packs calls and executes them by the rules of the contract, written down a second time and differently.
type simChain struct {
	number, time uint64
	fork         byte
	logs         uint64
	pending      []Event
	collateral   map[evm.Address]money.Amount
	autoSettle   map[evm.Address]bool
	bond         money.Amount
	cycles       map[evm.Hash]*simCycle
	refuse       func(simCall) bool // calls that fail for other reasons
	executed     []simCall
}

type simCycle struct {
	ref        CycleRef
	generation uint64
	height     uint8
	chunks     [][]byte
	last       evm.Address
	full       bool
	debit      money.Amount
	credit     money.Amount
	since      uint64
	sealed     bool
	final      bool
	failed     bool
	root       evm.Hash
	fills      map[evm.Address]money.Amount
	flags      map[evm.Address]string
	old        map[string][]byte // chunks of voided generations
	released   map[string]bool
	oldFills   map[evm.Address]money.Amount
}

func newSimChain() *simChain {
	return &simChain{
		collateral: make(map[evm.Address]money.Amount), autoSettle: make(map[evm.Address]bool),
		cycles: make(map[evm.Hash]*simCycle), bond: money.Units(0),
	}
}

func packSim(c simCall) (evm.Call, error) {
	data, err := json.Marshal(c)
	return evm.Call{From: operator, To: deployment.ClearingHouse, Data: data}, err
}

func (*simChain) Post(c CycleRef, generation, chunk uint64, height uint8, positions []byte) (evm.Call, error) {
	return packSim(simCall{Kind: "post", Ref: c, Cycle: c.ID(), Generation: generation, Chunk: chunk, Height: height, Positions: positions})
}

func (*simChain) Commit(c CycleRef, root evm.Hash, total money.Amount, deadline uint64, chunks int) (evm.Call, error) {
	return packSim(simCall{Kind: "commit", Ref: c, Cycle: c.ID(), Root: root, Total: total, Deadline: deadline, Chunk: uint64(chunks)})
}

func (*simChain) MarkDefaulted(cycle evm.Hash, debtor evm.Address, amount money.Amount, proof []evm.Hash) (evm.Call, error) {
	return packSim(simCall{Kind: "mark", Cycle: cycle, Debtor: debtor, Amount: amount, Proof: proof})
}

func (*simChain) Finalize(cycle evm.Hash) (evm.Call, error) {
	return packSim(simCall{Kind: "finalize", Cycle: cycle})
}

func (*simChain) Release(c CycleRef, generation, chunk uint64, positions []byte) (evm.Call, error) {
	return packSim(simCall{Kind: "release", Ref: c, Cycle: c.ID(), Generation: generation, Chunk: chunk, Positions: positions})
}

func (s *simChain) emit(e Event) {
	s.logs++
	e.LogIndex = s.logs
	e.TxHash = evm.Keccak256([]byte("tx"), []byte(fmt.Sprint(s.logs)))
	s.pending = append(s.pending, e)
}

func (s *simChain) deposit(who evm.Address, amount money.Amount) {
	s.collateral[who], _ = s.collateral[who].Add(amount)
	s.emit(Event{Kind: Deposited, Account: who, Asset: dollar, Amount: amount})
}

func (s *simChain) addBond(amount money.Amount) {
	s.bond, _ = s.bond.Add(amount)
	s.emit(Event{Kind: BondChanged, Asset: dollar, Amount: amount, On: true})
}

// block executes what a book has queued, in order, and returns a block with what came of it and of what was done before.
func (s *simChain) block(t uint64, outbox *Memory) (Block, []Event) {
	s.number++
	s.time = max(t, s.time)
	for _, call := range outbox.Queued() {
		var c simCall
		if err := json.Unmarshal(call.Data, &c); err != nil {
			panic(err)
		}
		state := evm.CallDone
		before := len(s.pending)
		if s.refuse != nil && s.refuse(c) || s.execute(c) != nil {
			s.pending = s.pending[:before]
			state = evm.CallReverted
		} else {
			s.executed = append(s.executed, c)
		}
		if err := outbox.Finish(call.ID, state); err != nil {
			panic(err)
		}
	}
	b := Block{Number: s.number, Time: s.time, Hash: evm.Keccak256([]byte{s.fork}, []byte(fmt.Sprint(s.number)))}
	events := s.pending
	s.pending = nil
	return b, events
}

var errRevert = errors.New("reverted")

func require(ok bool) {
	if !ok {
		panic(errRevert)
	}
}

func (s *simChain) execute(c simCall) (err error) {
	defer func() {
		if r := recover(); r == errRevert {
			err = errRevert
		} else if r != nil {
			panic(r)
		}
	}()
	cy := s.cycles[c.Cycle]
	switch c.Kind {
	case "post":
		if cy == nil {
			cy = &simCycle{ref: c.Ref, fills: map[evm.Address]money.Amount{}, flags: map[evm.Address]string{}, old: map[string][]byte{}, released: map[string]bool{}}
		}
		s.post(cy, c)
		s.cycles[c.Cycle] = cy
	case "commit":
		require(cy != nil && !cy.sealed && !cy.failed && len(cy.chunks) > 0 && s.time <= cy.deadline())
		require(c.Deadline > s.time && c.Deadline <= s.time+schedule.Challenge+schedule.Post)
		require(cy.debit == cy.credit && c.Total == cy.debit && c.Root == cy.fold())
		cy.sealed, cy.since, cy.root = true, s.time, c.Root
		s.emit(Event{Kind: CycleCommitted, Cycle: c.Cycle, Asset: dollar, Root: c.Root, Amount: c.Total, Time: s.time + schedule.Challenge})
	case "finalize":
		require(cy != nil && cy.sealed && !cy.final)
		s.finalize(cy)
	case "mark":
		require(cy != nil && cy.sealed && cy.flags[c.Debtor] == "" && !s.autoSettle[c.Debtor])
		s.finalize(cy)
		require(VerifyProof(leaf(deployment, c.Cycle, dollar, Position{Participant: c.Debtor, Amount: c.Amount, Role: Debtor}), cy.root, c.Proof))
		cy.flags[c.Debtor] = "defaulted"
		s.emit(Event{Kind: DebtorDefaulted, Cycle: c.Cycle, Account: c.Debtor, Amount: c.Amount})
	case "release":
		require(cy != nil)
		key := fmt.Sprint(c.Generation, "/", c.Chunk)
		require(!cy.released[key])
		own := c.Generation == cy.generation && !cy.sealed && s.time > cy.deadline() && c.Chunk < uint64(len(cy.chunks)) && bytes.Equal(cy.chunks[c.Chunk], c.Positions)
		require(own || c.Generation < cy.generation && bytes.Equal(cy.old[key], c.Positions))
		cy.released[key] = true
		fills := cy.fills
		if !own {
			fills = cy.oldFills
		}
		s.emit(Event{Kind: ChunkReleased, Cycle: c.Cycle, Generation: c.Generation, Chunk: c.Chunk})
		for p := range slices.Chunk(c.Positions, 69) {
			if p[20] == 0 {
				who := evm.Address(p[:20])
				back, _ := simAmount(p).Sub(fills[who])
				s.collateral[who], _ = s.collateral[who].Add(back)
				s.bond, _ = s.bond.Add(fills[who])
			}
		}
	}
	return nil
}

func simAmount(p []byte) money.Amount {
	a, err := money.AmountFromBytes(p[21:37])
	if err != nil {
		panic(err)
	}
	return a
}

// unreleased reports whether what voided postings took is still to be given back.
func (cy *simCycle) unreleased() bool {
	for chunk := range cy.old {
		if !cy.released[chunk] {
			return true
		}
	}
	return false
}

func (cy *simCycle) deadline() uint64 {
	if cy.generation == 0 {
		return cy.ref.Start + schedule.Length + schedule.Cutoff + schedule.Post
	}
	return cy.since + schedule.Repost
}

func (s *simChain) post(cy *simCycle, c simCall) {
	require(s.time >= c.Ref.Start+schedule.Length+schedule.Cutoff && s.time <= cy.deadline() && !cy.sealed && !cy.failed && !cy.full)
	require(c.Generation == cy.generation && c.Chunk == uint64(len(cy.chunks)) && len(c.Positions) > 0 && len(c.Positions)%69 == 0)
	require(len(cy.chunks) == 0 || c.Height == cy.height)
	n := len(c.Positions) / 69
	require(n <= 1<<c.Height)
	last, debit, credit, bond := cy.last, cy.debit, cy.credit, s.bond
	fills, took := map[evm.Address]money.Amount{}, map[evm.Address]money.Amount{}
	for p := range slices.Chunk(c.Positions, 69) {
		who, amount := evm.Address(p[:20]), simAmount(p)
		require(bytes.Compare(who[:], last[:]) > 0 && p[20] <= 2 && amount.IsZero() == (p[20] == 2) && amount.BitLen() <= 112)
		last = who
		switch p[20] {
		case 0:
			debit, _ = debit.Add(amount)
			own := money.Min(amount, s.collateral[who])
			took[who] = own
			if short, _ := amount.Sub(own); !short.IsZero() {
				var ok bool
				bond, ok = bond.Sub(short)
				require(ok)
				fills[who] = short
			}
		case 1:
			credit, _ = credit.Add(amount)
		}
	}
	for who, amount := range took {
		s.collateral[who], _ = s.collateral[who].Sub(amount)
	}
	s.emit(Event{Kind: PositionsPosted, Cycle: c.Cycle, Generation: c.Generation, Chunk: c.Chunk, Root: evm.Keccak256(c.Positions)})
	for who, amount := range fills {
		cy.fills[who] = amount
		s.emit(Event{Kind: DebtFilled, Cycle: c.Cycle, Account: who, Amount: amount})
	}
	cy.last, cy.debit, cy.credit, s.bond, cy.height = last, debit, credit, bond, c.Height
	cy.chunks = append(cy.chunks, c.Positions)
	cy.full = n < 1<<c.Height
}

func (s *simChain) finalize(cy *simCycle) {
	if cy.final {
		return
	}
	require(s.time > cy.since+schedule.Challenge)
	cy.final = true
	s.emit(Event{Kind: CycleFinalized, Cycle: cy.ref.ID()})
}

// fold computes R chunk by chunk, as the contract does.
func (cy *simCycle) fold() evm.Hash {
	var roots []evm.Hash
	for i, chunk := range cy.chunks {
		var leaves []evm.Hash
		for p := range slices.Chunk(chunk, 69) {
			leaves = append(leaves, simLeaf(cy.ref, p))
		}
		levels := int(cy.height)
		if i == 0 {
			levels = 0
		}
		roots = append(roots, foldLevels(leaves, levels))
	}
	return foldLevels(roots, 0)
}

func simLeaf(ref CycleRef, p []byte) evm.Hash {
	var b bytes.Buffer
	pad := func(v []byte) { b.Write(make([]byte, 32-len(v))); b.Write(v) }
	id := ref.ID()
	pad(binary.BigEndian.AppendUint64(nil, deployment.ChainID))
	pad(deployment.ClearingHouse[:])
	pad(id[:])
	pad(ref.Asset[:])
	pad(p[:20])
	pad(p[21:37])
	pad(p[20:21])
	return evm.Keccak256(b.Bytes())
}

// foldLevels folds until one node is left, and through at least so many levels.
func foldLevels(nodes []evm.Hash, levels int) evm.Hash {
	for level := 0; len(nodes) > 1 || level < levels; level++ {
		var up []evm.Hash
		for pair := range slices.Chunk(nodes, 2) {
			a, b := pair[0], pair[len(pair)-1]
			if bytes.Compare(a[:], b[:]) > 0 {
				a, b = b, a
			}
			up = append(up, evm.Keccak256(a[:], b[:]))
		}
		nodes = up
	}
	return nodes[0]
}

// pay is a debtor's payment of its position, if it may be made.
func (s *simChain) pay(ref CycleRef, p Position) bool {
	cy := s.cycles[ref.ID()]
	if cy == nil || !cy.sealed || cy.flags[p.Participant] != "" || p.Role != Debtor {
		return false
	}
	cy.flags[p.Participant] = "paid"
	filled := cy.fills[p.Participant]
	delete(cy.fills, p.Participant)
	own, _ := p.Amount.Sub(filled)
	s.bond, _ = s.bond.Add(filled)
	s.collateral[p.Participant], _ = s.collateral[p.Participant].Add(own)
	s.emit(Event{Kind: DebtorPaid, Cycle: ref.ID(), Account: p.Participant, Amount: p.Amount})
	return true
}

// claim is a creditor's, into its own collateral if asked so.
func (s *simChain) claim(ref CycleRef, p Position, toVault bool) bool {
	cy := s.cycles[ref.ID()]
	if cy == nil || !cy.sealed || cy.flags[p.Participant] != "" || p.Role != Creditor || s.time <= cy.since+schedule.Challenge {
		return false
	}
	s.finalize(cy)
	cy.flags[p.Participant] = "claimed"
	s.emit(Event{Kind: CreditorClaimed, Cycle: ref.ID(), Account: p.Participant, Amount: p.Amount})
	if toVault {
		s.deposit(p.Participant, p.Amount)
	}
	return true
}

// void takes a seal back, as a dispute does.
func (s *simChain) void(ref CycleRef) {
	cy := s.cycles[ref.ID()]
	cy.failed = cy.generation > 0
	s.emit(Event{Kind: CycleVoided, Cycle: ref.ID(), Generation: cy.generation, On: cy.failed})
	for i, chunk := range cy.chunks {
		cy.old[fmt.Sprint(cy.generation, "/", i)] = chunk
	}
	cy.oldFills, cy.fills, cy.flags = cy.fills, map[evm.Address]money.Amount{}, map[evm.Address]string{}
	cy.generation++
	cy.chunks, cy.last, cy.full, cy.sealed, cy.since = nil, evm.Address{}, false, false, s.time
	cy.debit, cy.credit = money.Amount{}, money.Amount{}
}
