package clearing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// Memory is a [Book] that forgets everything when the process ends: for tests and simulations. Writes are run one at a
// time, and one that fails or panics leaves nothing behind. It is also the outbox of its calls, which [Memory.Queued]
// and [Memory.Finish] give to a simulated chain. Make one with [NewMemory].
type Memory struct {
	mu sync.RWMutex
	memory
}

// memory is guarded by Memory's mu.
type memory struct {
	accounts   map[AccountKey]Account
	balances   map[ledger.Account]ledger.Balance
	transfers  map[string]ledger.Transfer
	guarantees map[evm.Hash]Guarantee
	keys       map[guarantee.Key]evm.Hash
	admitted   map[evm.Hash]int        // the order of admission
	inCycle    map[CycleRef][]evm.Hash // in that order
	ofParty    map[cycleParty][]evm.Hash
	payable    map[cycleParty]money.Amount // by payer
	cycles     map[CycleRef]Cycle
	cycleIDs   map[evm.Hash]CycleRef
	positions  map[cycleGeneration]postings
	schedules  map[evm.Address][]Schedule
	signers    map[ownerKey]Signer
	wallets    map[evm.Address]Wallet
	stamp      uint64 // of the wallets
	stamps     uint64 // how many there were; not undone
	calls      map[string]evm.Call
	states     map[string]evm.CallState
	order      map[string]int // of calls, by when they were asked for
	blocks     map[Stream][]blockRow
}

type ownerKey struct{ owner, key evm.Address }

type cycleParty struct {
	cycle CycleRef
	party evm.Address
}

type cycleGeneration struct {
	cycle      CycleRef
	generation uint64
}

// postings is never changed once stored.
type postings struct {
	list []Position
	at   map[evm.Address]int
}

type blockRow struct {
	Block
	events []Event
}

// NewMemory returns an empty book.
func NewMemory() *Memory {
	return &Memory{memory: memory{
		accounts: make(map[AccountKey]Account), balances: make(map[ledger.Account]ledger.Balance),
		transfers: make(map[string]ledger.Transfer), guarantees: make(map[evm.Hash]Guarantee),
		keys: make(map[guarantee.Key]evm.Hash), admitted: make(map[evm.Hash]int), inCycle: make(map[CycleRef][]evm.Hash),
		ofParty: make(map[cycleParty][]evm.Hash), payable: make(map[cycleParty]money.Amount),
		cycles: make(map[CycleRef]Cycle), cycleIDs: make(map[evm.Hash]CycleRef),
		positions: make(map[cycleGeneration]postings), schedules: make(map[evm.Address][]Schedule),
		signers: make(map[ownerKey]Signer),
		wallets: make(map[evm.Address]Wallet), calls: make(map[string]evm.Call), states: make(map[string]evm.CallState), order: make(map[string]int),
		blocks: make(map[Stream][]blockRow),
	}}
}

// Read implements [Book].
func (m *Memory) Read(ctx context.Context, fn func(Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return fn(&memoryTx{memory: &m.memory})
}

// Write implements [Book].
func (m *Memory) Write(ctx context.Context, fn func(Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := &memoryTx{memory: &m.memory, writes: true}
	defer tx.rollback() // nothing is left to roll back once fn has succeeded
	if err := fn(tx); err != nil {
		return err
	}
	tx.undo = nil
	return nil
}

// Queued returns the calls that nobody has taken yet, in the order in which they were asked for.
func (m *Memory) Queued() []evm.Call {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var queued []evm.Call
	for id, call := range m.calls {
		if m.states[id] == evm.CallQueued {
			queued = append(queued, call)
		}
	}
	slices.SortFunc(queued, func(a, b evm.Call) int { return m.order[a.ID] - m.order[b.ID] })
	return queued
}

// Finish sets how far a call has come, or returns evm.ErrNoCall.
func (m *Memory) Finish(id string, state evm.CallState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.calls[id]; !ok {
		return fmt.Errorf("call %q: %w", id, evm.ErrNoCall)
	}
	m.states[id] = state
	return nil
}

// memoryTx is a transaction on the maps themselves, which remembers how to take back what it did.
type memoryTx struct {
	*memory
	writes bool
	undo   []func() // oldest first
}

var errReadOnly = errors.New("a reading transaction cannot write")

func (tx *memoryTx) rollback() {
	for _, back := range slices.Backward(tx.undo) {
		back()
	}
}

// put sets m[k] so that it can be taken back. A value that says nothing is not kept.
func put[K, V comparable](tx *memoryTx, m map[K]V, k K, v, nothing V) error {
	if !tx.writes {
		return errReadOnly
	}
	keepOld(tx, m, k)
	if v == nothing {
		delete(m, k)
	} else {
		m[k] = v
	}
	return nil
}

// set is put for values that cannot be compared.
func set[K comparable, V any](tx *memoryTx, m map[K]V, k K, v V) error {
	if !tx.writes {
		return errReadOnly
	}
	keepOld(tx, m, k)
	m[k] = v
	return nil
}

func remove[K comparable, V any](tx *memoryTx, m map[K]V, k K) error {
	if !tx.writes {
		return errReadOnly
	}
	keepOld(tx, m, k)
	delete(m, k)
	return nil
}

func keepOld[K comparable, V any](tx *memoryTx, m map[K]V, k K) {
	old, was := m[k]
	tx.undo = append(tx.undo, func() {
		if was {
			m[k] = old
		} else {
			delete(m, k)
		}
	})
}

func (tx *memoryTx) Account(owner, asset evm.Address) (Account, error) {
	a := tx.accounts[AccountKey{owner, asset}]
	a.Owner, a.Asset = owner, asset
	return a, nil
}

func (tx *memoryTx) Accounts(keys []AccountKey) (all []Account, err error) {
	for _, k := range keys {
		a, _ := tx.Account(k.Owner, k.Asset)
		all = append(all, a)
	}
	return all, nil
}

func (tx *memoryTx) PutAccount(a Account) error {
	return put(tx, tx.accounts, AccountKey{a.Owner, a.Asset}, a, Account{Owner: a.Owner, Asset: a.Asset})
}

func (tx *memoryTx) Balance(a ledger.Account) (ledger.Balance, error) { return tx.balances[a], nil }

func (tx *memoryTx) PutBalance(a ledger.Account, b ledger.Balance) error {
	if a.Kind == ledger.Collateral {
		return errors.New("collateral is kept in accounts")
	}
	return put(tx, tx.balances, a, b, ledger.Balance{})
}

func (tx *memoryTx) AddTransfer(t ledger.Transfer) error {
	if _, ok := tx.transfers[t.ID]; ok {
		return fmt.Errorf("transfer %s is there already", t.ID)
	}
	return set(tx, tx.transfers, t.ID, t)
}

func (tx *memoryTx) DropTransfer(id string) error {
	if _, ok := tx.transfers[id]; !ok {
		return fmt.Errorf("transfer %s is not there", id)
	}
	return remove(tx, tx.transfers, id)
}

func (tx *memoryTx) Balances(asset evm.Address) iter.Seq2[BalanceRow, error] {
	var rows []BalanceRow
	for k, a := range tx.accounts {
		if k.Asset == asset {
			rows = append(rows, BalanceRow{collateralOf(k.Owner, asset), a.Balance})
		}
	}
	for a, b := range tx.balances {
		if a.Asset == asset {
			rows = append(rows, BalanceRow{a, b})
		}
	}
	slices.SortFunc(rows, func(a, b BalanceRow) int { return compareAccounts(a.Account, b.Account) })
	return each(rows)
}

func each[T any](rows []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (tx *memoryTx) GuaranteeByKey(k guarantee.Key) (Guarantee, bool, error) {
	digest, ok := tx.keys[k]
	if !ok {
		return Guarantee{}, false, nil
	}
	return tx.GuaranteeByDigest(digest)
}

func (tx *memoryTx) GuaranteesByKey(keys []guarantee.Key) (map[guarantee.Key]Guarantee, error) {
	known := make(map[guarantee.Key]Guarantee)
	for _, k := range keys {
		if g, found, _ := tx.GuaranteeByKey(k); found {
			known[k] = g
		}
	}
	return known, nil
}

func (tx *memoryTx) GuaranteeByDigest(digest evm.Hash) (Guarantee, bool, error) {
	g, ok := tx.guarantees[digest]
	return g.clone(), ok, nil
}

// clone keeps callers' pointers apart from the book's.
func (g Guarantee) clone() Guarantee {
	if g.Note != nil {
		note := *g.Note
		g.Note = &note
	}
	if g.Validation != nil {
		validation := *g.Validation
		g.Validation = &validation
	}
	return g
}

func (tx *memoryTx) AddGuarantee(g Guarantee) error {
	c := g.Signed.Claims
	if _, ok := tx.guarantees[g.Digest]; ok {
		return fmt.Errorf("guarantee %s is there already", g.Digest)
	}
	if _, ok := tx.keys[c.Key()]; ok {
		return fmt.Errorf("a guarantee with the key of %s is there already", g.Digest)
	}
	if (c.Policy == nil) != (g.Validation == nil) {
		return fmt.Errorf("guarantee %s: it has a policy and no validation, or the other way", g.Digest)
	}
	return errors.Join(
		set(tx, tx.guarantees, g.Digest, g.clone()),
		set(tx, tx.keys, c.Key(), g.Digest),
		set(tx, tx.admitted, g.Digest, len(tx.admitted)),
		tx.enlist(g),
	)
}

// enlist puts a guarantee on the lists of the cycle that nets it, in the order of admission, and into its payer's sum.
func (tx *memoryTx) enlist(g Guarantee) error {
	c := g.Netting()
	with := func(list []evm.Hash) []evm.Hash {
		i, _ := slices.BinarySearchFunc(list, tx.admitted[g.Digest], func(d evm.Hash, at int) int { return tx.admitted[d] - at })
		return slices.Insert(slices.Clip(list), i, g.Digest)
	}
	payer, payee := cycleParty{c, g.Signed.Claims.Payer}, cycleParty{c, g.Signed.Claims.Payee}
	err := errors.Join(
		set(tx, tx.inCycle, c, with(tx.inCycle[c])),
		set(tx, tx.ofParty, payer, with(tx.ofParty[payer])),
	)
	if payee != payer {
		err = errors.Join(err, set(tx, tx.ofParty, payee, with(tx.ofParty[payee])))
	}
	return errors.Join(err, tx.addPayable(payer, money.Amount{}, g.Payable))
}

// delist is the opposite of enlist.
func (tx *memoryTx) delist(g Guarantee) error {
	c := g.Netting()
	without := func(list []evm.Hash) []evm.Hash {
		return slices.DeleteFunc(slices.Clone(list), func(d evm.Hash) bool { return d == g.Digest })
	}
	payer, payee := cycleParty{c, g.Signed.Claims.Payer}, cycleParty{c, g.Signed.Claims.Payee}
	return errors.Join(
		set(tx, tx.inCycle, c, without(tx.inCycle[c])),
		set(tx, tx.ofParty, payer, without(tx.ofParty[payer])),
		set(tx, tx.ofParty, payee, without(tx.ofParty[payee])),
		tx.addPayable(payer, g.Payable, money.Amount{}),
	)
}

// addPayable replaces one guarantee's part of its payer's sum.
func (tx *memoryTx) addPayable(payer cycleParty, before, after money.Amount) error {
	rest, ok := tx.payable[payer].Sub(before)
	if !ok {
		return ledger.ErrPending
	}
	if rest, ok = rest.Add(after); !ok {
		return ledger.ErrOverflow
	}
	return set(tx, tx.payable, payer, rest)
}

func (tx *memoryTx) LowerGuarantee(digest evm.Hash, payable money.Amount, note guarantee.SignedNote, evidence evm.Hash) error {
	g, ok := tx.guarantees[digest]
	if !ok {
		return fmt.Errorf("guarantee %s is not there", digest)
	}
	before := g.Payable
	g.Payable, g.Note, g.Evidence = payable, &note, evidence
	return errors.Join(set(tx, tx.guarantees, digest, g), tx.addPayable(cycleParty{g.Netting(), g.Signed.Claims.Payer}, before, payable))
}

func (tx *memoryTx) PutValidation(digest evm.Hash, payable money.Amount, v Validation) error {
	g, ok := tx.guarantees[digest]
	if !ok || g.Validation == nil {
		return fmt.Errorf("guarantee %s is not there, or depends on nobody", digest)
	}
	if err := tx.delist(g); err != nil {
		return err
	}
	g.Payable, g.Validation = payable, &v
	return errors.Join(set(tx, tx.guarantees, digest, g), tx.enlist(g))
}

func (tx *memoryTx) Unanswered(due uint64, limit int) ([]evm.Hash, error) {
	list := tx.validations(func(v Validation, _ CycleRef) bool { return v.AskAt != 0 && v.AskAt <= due })
	slices.SortFunc(list, func(a, b evm.Hash) int {
		return cmp.Or(cmp.Compare(tx.guarantees[a].Validation.AskAt, tx.guarantees[b].Validation.AskAt), slices.Compare(a[:], b[:]))
	})
	return list[:min(limit, len(list))], nil
}

func (tx *memoryTx) Unasked(asset evm.Address, start, at uint64) (bool, error) {
	return len(tx.validations(func(v Validation, c CycleRef) bool {
		return v.AskAt != 0 && v.Asked < at && c.Asset == asset && c.Start <= start
	})) > 0, nil
}

func (tx *memoryTx) Decided(above uint64) ([]evm.Hash, error) {
	return tx.validations(func(v Validation, _ CycleRef) bool { return v.Block > above }), nil
}

// validations returns the guarantees whose validation, and the cycle of whose certificate, are as wanted.
func (tx *memoryTx) validations(wanted func(Validation, CycleRef) bool) (list []evm.Hash) {
	for d, g := range tx.guarantees {
		if g.Validation != nil && wanted(*g.Validation, g.Cycle) {
			list = append(list, d)
		}
	}
	return list
}

func (tx *memoryTx) PledgeGuarantee(digest evm.Hash, pledged money.Amount) error {
	g, ok := tx.guarantees[digest]
	if !ok {
		return fmt.Errorf("guarantee %s is not there", digest)
	}
	g.Pledged = pledged
	return set(tx, tx.guarantees, digest, g)
}

func (tx *memoryTx) list(digests []evm.Hash) iter.Seq2[Guarantee, error] {
	return func(yield func(Guarantee, error) bool) {
		for _, d := range digests {
			if !yield(tx.guarantees[d].clone(), nil) {
				return
			}
		}
	}
}

func (tx *memoryTx) Refunds(c CycleRef) iter.Seq2[Guarantee, error] {
	var rows []Guarantee
	for _, d := range tx.inCycle[c] {
		if g := tx.guarantees[d]; !g.Backed.IsZero() || !g.Pledged.IsZero() {
			rows = append(rows, g.clone())
		}
	}
	return each(rows)
}

func (tx *memoryTx) Guarantees(c CycleRef) iter.Seq2[Guarantee, error] { return tx.list(tx.inCycle[c]) }

func (tx *memoryTx) GuaranteesOf(c CycleRef, participant evm.Address) iter.Seq2[Guarantee, error] {
	return tx.list(tx.ofParty[cycleParty{c, participant}])
}

func (tx *memoryTx) Lines(c CycleRef) iter.Seq2[[]Line, error] {
	var pages [][]Line
	for digests := range slices.Chunk(tx.inCycle[c], 1024) {
		page := make([]Line, len(digests))
		for i, d := range digests {
			g := tx.guarantees[d]
			page[i] = Line{g.Signed.Claims.Payer, g.Signed.Claims.Payee, d, g.Evidence, g.Payable}
		}
		pages = append(pages, page)
	}
	return each(pages)
}

func (tx *memoryTx) PayableByEach(c CycleRef) iter.Seq2[PayerSum, error] {
	var sums []PayerSum
	for k, payable := range tx.payable {
		if k.cycle == c {
			sums = append(sums, PayerSum{k.party, payable})
		}
	}
	return each(sums)
}

func (tx *memoryTx) List(q Listing) (list []Listed, err error) {
	cycles, err := tx.Cycles(q.Asset, false, 0)
	refs := make([]CycleRef, len(cycles), len(cycles)+1)
	for i, c := range cycles {
		refs[i] = c.Ref
	}
	for _, ref := range append(refs, Nowhere(q.Asset)) {
		if q.InCycle && ref.Start != q.Start {
			continue
		}
		for _, d := range slices.Backward(tx.inCycle[ref]) {
			g, at := tx.guarantees[d], Place{ref.Start, uint64(tx.admitted[d]) + 1}
			claims := g.Signed.Claims
			if q.Before != (Place{}) && !at.before(q.Before) || q.Payer != nil && claims.Payer != *q.Payer || q.Payee != nil && claims.Payee != *q.Payee {
				continue
			}
			if len(list) == q.Limit {
				return list, nil
			}
			list = append(list, Listed{g.clone(), at})
		}
	}
	return list, err
}

func (tx *memoryTx) PayableBy(c CycleRef, payer evm.Address) (money.Amount, error) {
	return tx.payable[cycleParty{c, payer}], nil
}

func (tx *memoryTx) Cycle(ref CycleRef) (Cycle, bool, error) {
	c, ok := tx.cycles[ref]
	return c, ok, nil
}

func (tx *memoryTx) KeptCycle(ref CycleRef) (Cycle, bool, error) { return tx.Cycle(ref) }

func (tx *memoryTx) CycleByID(id evm.Hash) (Cycle, bool, error) {
	ref, ok := tx.cycleIDs[id]
	if !ok {
		return Cycle{}, false, nil
	}
	return tx.Cycle(ref)
}

func (tx *memoryTx) PutCycle(c Cycle) error {
	return errors.Join(set(tx, tx.cycles, c.Ref, c), set(tx, tx.cycleIDs, c.Ref.ID(), c.Ref))
}

func (tx *memoryTx) Cycles(asset evm.Address, open bool, limit int) ([]Cycle, error) {
	var list []Cycle
	for ref, c := range tx.cycles {
		if ref.Asset == asset && !(open && c.Status == Closed) {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b Cycle) int { return compareRefs(b.Ref, a.Ref) })
	if limit > 0 && len(list) > limit {
		list = list[:limit]
	}
	return list, nil
}

func (tx *memoryTx) CyclesBefore(asset evm.Address, start uint64, limit int) ([]Cycle, error) {
	list, err := tx.Cycles(asset, false, 0)
	list = slices.DeleteFunc(list, func(c Cycle) bool { return start > 0 && c.Ref.Start >= start })
	return list[:min(limit, len(list))], err
}

func (tx *memoryTx) PutPositions(c CycleRef, generation uint64, ps []Position) error {
	key := cycleGeneration{c, generation}
	if len(ps) == 0 {
		return remove(tx, tx.positions, key)
	}
	row := postings{list: slices.Clone(ps), at: make(map[evm.Address]int, len(ps))}
	slices.SortFunc(row.list, func(a, b Position) int { return int(a.Index) - int(b.Index) })
	for i, p := range row.list {
		row.at[p.Participant] = i
	}
	return set(tx, tx.positions, key, row)
}

func (tx *memoryTx) Positions(c CycleRef, generation uint64) ([]Position, error) {
	return slices.Clone(tx.positions[cycleGeneration{c, generation}].list), nil
}

func (tx *memoryTx) Position(c CycleRef, generation uint64, participant evm.Address) (Position, bool, error) {
	row := tx.positions[cycleGeneration{c, generation}]
	i, ok := row.at[participant]
	if !ok {
		return Position{}, false, nil
	}
	return row.list[i], true, nil
}

func (tx *memoryTx) Unsettled(asset, participant evm.Address, limit int) ([]CycleRef, error) {
	var list []CycleRef
	for ref, c := range tx.cycles {
		p, ok, _ := tx.Position(ref, c.Generation, participant)
		owes := p.Role == Debtor && !p.Flags.Paid && !p.Flags.Defaulted
		if ok && ref.Asset == asset && (owes || p.Role == Creditor && !p.Flags.Claimed) {
			list = append(list, ref)
		}
	}
	slices.SortFunc(list, func(a, b CycleRef) int { return compareRefs(b, a) })
	if limit > 0 && len(list) > limit {
		list = list[:limit]
	}
	return list, nil
}

func (tx *memoryTx) MarkPosition(c CycleRef, generation uint64, participant evm.Address, filled money.Amount, flags PositionFlags) error {
	if !tx.writes {
		return errReadOnly
	}
	row := tx.positions[cycleGeneration{c, generation}]
	i, ok := row.at[participant]
	if !ok {
		return fmt.Errorf("position of %s in cycle %s is not there", participant, c)
	}
	old := row.list[i]
	tx.undo = append(tx.undo, func() { row.list[i] = old })
	row.list[i].Filled, row.list[i].Flags = filled, flags
	return nil
}

func (tx *memoryTx) Schedules(asset evm.Address) ([]Schedule, error) {
	return slices.Clone(tx.schedules[asset]), nil
}

func (tx *memoryTx) PutSchedule(s Schedule) error {
	list := slices.DeleteFunc(slices.Clone(tx.schedules[s.Asset]), func(old Schedule) bool { return old.From == s.From })
	list = append(list, s)
	slices.SortFunc(list, func(a, b Schedule) int {
		if a.From < b.From {
			return -1
		}
		return 1
	})
	return set(tx, tx.schedules, s.Asset, list)
}

func (tx *memoryTx) DropSchedule(asset evm.Address, from uint64) error {
	list := slices.DeleteFunc(slices.Clone(tx.schedules[asset]), func(old Schedule) bool { return old.From == from })
	if len(list) == 0 {
		return remove(tx, tx.schedules, asset)
	}
	return set(tx, tx.schedules, asset, list)
}

func (tx *memoryTx) Signer(owner, key evm.Address) (Signer, bool, error) {
	s, found := tx.signers[ownerKey{owner, key}]
	return s, found, nil
}

func (tx *memoryTx) Signers(owner evm.Address) (list []Signer, err error) {
	for k, s := range tx.signers {
		if k.owner == owner {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b Signer) int { return slices.Compare(a.Key[:], b.Key[:]) })
	return list, nil
}

func (tx *memoryTx) PutSigner(s Signer) error {
	return set(tx, tx.signers, ownerKey{s.Owner, s.Key}, s)
}

func (tx *memoryTx) DropSigner(owner, key evm.Address) error {
	return remove(tx, tx.signers, ownerKey{owner, key})
}

func (tx *memoryTx) Assets() ([]evm.Address, error) {
	var list []evm.Address
	for asset := range tx.schedules {
		list = append(list, asset)
	}
	slices.SortFunc(list, func(a, b evm.Address) int { return slices.Compare(a[:], b[:]) })
	return list, nil
}

func (tx *memoryTx) Wallet(address evm.Address) (Wallet, bool, error) {
	w, ok := tx.wallets[address]
	w.Scopes = slices.Clone(w.Scopes)
	return w, ok, nil
}

func (tx *memoryTx) PutWallet(w Wallet) error {
	switch w.Status {
	case WalletActive, WalletSuspended, WalletRevoked:
	default:
		return fmt.Errorf("wallet %s: status %q is none", w.Address, w.Status)
	}
	w.Scopes = slices.Clone(w.Scopes)
	if err := set(tx, tx.wallets, w.Address, w); err != nil {
		return err
	}
	before := tx.stamp
	tx.undo = append(tx.undo, func() { tx.stamp = before })
	tx.stamps++
	tx.stamp = tx.stamps
	return nil
}

func (tx *memoryTx) Wallets(after evm.Address, limit int) ([]Wallet, error) {
	var list []Wallet
	for address := range tx.wallets {
		if slices.Compare(address[:], after[:]) > 0 {
			w, _, _ := tx.Wallet(address)
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b Wallet) int { return slices.Compare(a.Address[:], b.Address[:]) })
	return list[:min(limit, len(list))], nil
}

func (tx *memoryTx) WalletsStamp() (uint64, error) { return tx.stamp, nil }

func (tx *memoryTx) Enqueue(call evm.Call) error {
	if old, ok := tx.calls[call.ID]; ok {
		if !old.Same(call) {
			return fmt.Errorf("enqueue %v: %w", call, evm.ErrCallConflict)
		}
		return nil
	}
	call.Data = slices.Clone(call.Data)
	return errors.Join(set(tx, tx.calls, call.ID, call), set(tx, tx.states, call.ID, evm.CallQueued), set(tx, tx.order, call.ID, len(tx.order)))
}

func (tx *memoryTx) CallState(id string) (evm.CallState, bool, error) {
	state, ok := tx.states[id]
	return state, ok, nil
}

func (tx *memoryTx) AloneOn(Stream) error { return nil } // one write runs at a time

func (tx *memoryTx) Blocks(stream Stream, limit int) ([]Block, error) {
	var list []Block
	for _, row := range slices.Backward(tx.blocks[stream]) {
		if len(list) >= limit {
			break
		}
		list = append(list, row.Block)
	}
	return list, nil
}

func (tx *memoryTx) PutBlock(stream Stream, b Block, events []Event) error {
	rows := tx.blocks[stream]
	if n := len(rows); n > 0 && rows[n-1].Number >= b.Number {
		return fmt.Errorf("block %d on %s is not newer than %d", b.Number, stream, rows[n-1].Number)
	}
	return set(tx, tx.blocks, stream, append(rows[:len(rows):len(rows)], blockRow{b, slices.Clone(events)}))
}

func (tx *memoryTx) DropBlock(stream Stream, number uint64) ([]Event, error) {
	rows := tx.blocks[stream]
	n := len(rows)
	if n == 0 || rows[n-1].Number != number {
		return nil, fmt.Errorf("block %d is not the newest on %s", number, stream)
	}
	if n == 1 {
		return rows[0].events, remove(tx, tx.blocks, stream)
	}
	return rows[n-1].events, set(tx, tx.blocks, stream, rows[:n-1])
}

func (tx *memoryTx) PruneBlocks(stream Stream, number uint64) error {
	rows := slices.DeleteFunc(slices.Clone(tx.blocks[stream]), func(r blockRow) bool { return r.Number < number })
	return set(tx, tx.blocks, stream, rows)
}
