package clearing

import (
	"math"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// Account is an owner's collateral in one asset, and what the owner told the vault about it. One row: admission reads
// and writes nothing else of a payer.
type Account struct {
	Owner, Asset evm.Address
	// Balance has confirmed deposits as credits posted, what the chain took as debits posted, and exposure (guarantees
	// of cycles whose commit is not applied yet) as debits pending.
	Balance ledger.Balance
	// A withdrawal request counts from the moment it is seen at any depth; its end counts when it is confirmed. Each
	// stream of blocks keeps its own view, and the larger one is held back.
	WithdrawHead, WithdrawConfirmed money.Amount
	// Limit is the most that one cycle may take (the owner's limitPerCycle); Limited says whether there is one. The
	// lower of the two streams' views counts, so each keeps its own.
	LimitHead, LimitConfirmed     money.Amount
	LimitedHead, LimitedConfirmed bool
	// AutoSettle: being settled from collateral is no default.
	AutoSettle bool
}

// Collateral is what the owner has in the vault, as far as it is confirmed: zero if more was taken than came.
func (a Account) Collateral() money.Amount {
	have, ok := a.Balance.CreditsPosted.Sub(a.Balance.DebitsPosted)
	if !ok {
		return money.Amount{}
	}
	return have
}

// Exposure is what the owner has guaranteed and not yet settled.
func (a Account) Exposure() money.Amount { return a.Balance.DebitsPending }

// Held is the requested withdrawal.
func (a Account) Held() money.Amount { return money.Max(a.WithdrawHead, a.WithdrawConfirmed) }

// Headroom is what can still be guaranteed.
func (a Account) Headroom() money.Amount {
	free, ok := a.Balance.Available().Sub(a.Held())
	if !ok {
		return money.Amount{}
	}
	return free
}

// Limit returns the most that one cycle may take, and whether there is a limit.
func (a Account) Limit() (money.Amount, bool) {
	switch {
	case a.LimitedHead && a.LimitedConfirmed:
		return money.Min(a.LimitHead, a.LimitConfirmed), true
	case a.LimitedHead:
		return a.LimitHead, true
	default:
		return a.LimitConfirmed, a.LimitedConfirmed
	}
}

// Signer is a key that an owner has named to sign its notes, beside the owner's own.
type Signer struct {
	Owner, Key evm.Address
	Until      uint64 // unix seconds, exclusive; [Forever] while it is not removed
}

// Forever is the end of what has none.
const Forever = math.MaxInt64

// Guarantee is an admitted guarantee.
type Guarantee struct {
	Signed  guarantee.Signed
	Digest  evm.Hash              // EIP-712 digest of the claims, whatever form was signed
	Cycle   CycleRef              // that its certificate names
	Payable money.Amount          // the claims' amount, or the lowest note's; nothing for one that was never validated in time
	Backed  money.Amount          // of a refund: the part that its payer's claims back instead of its collateral
	Pledged money.Amount          // the part that backs refunds of its payee; no note lowers it below that
	Note    *guarantee.SignedNote // the lowest note, nil if none
	At      int64                 // admitted, unix milliseconds of the house's clock
	// Evidence is the hash of what proves the guarantee, with its note: netting needs nothing else of all that. It is zero
	// in rows that an older version has written.
	Evidence evm.Hash
	// Validation is where a guarantee stands that depends on a validator, nil for the others.
	Validation *Validation
}

// Line is what netting needs of a guarantee.
type Line struct {
	Payer, Payee     evm.Address
	Digest, Evidence evm.Hash
	Payable          money.Amount
}

// PayerSum is what a payer's guarantees of a cycle come to.
type PayerSum struct {
	Payer   evm.Address
	Payable money.Amount
}

// CycleRef names a cycle: the chain derives its id from these two.
type CycleRef struct {
	Asset evm.Address
	Start uint64 // unix seconds, a boundary of the asset's schedule
}

// ID returns the cycle's id on chain and in certificates.
func (c CycleRef) ID() evm.Hash { return guarantee.CycleID(c.Asset, c.Start) }

// String returns the text form, 0xasset:start.
func (c CycleRef) String() string { return guarantee.CycleText(c.Asset, c.Start) }

// Schedule is a version of an asset's times, all in seconds (CLEARING section 5).
type Schedule struct {
	Asset                                                 evm.Address
	From, Length, Cutoff, Post, Challenge, Repost, Redeem uint64
}

// CycleStatus is where a cycle stands. The house moves it forward in CloseDue and when it applies blocks; only a
// reorg moves it back, and only from Committed, Final or Closed.
type CycleStatus string

// The states of a cycle in their order.
const (
	Open      CycleStatus = "open"      // takes guarantees
	Frozen    CycleStatus = "frozen"    // takes no guarantees; notes until the cutoff
	Netted    CycleStatus = "netted"    // positions computed, on their way to the chain
	Committed CycleStatus = "committed" // the commit is applied at depth: locks are released, debtors may pay
	Final     CycleStatus = "final"     // the challenge window is over; creditors collect, defaults are marked
	Closed    CycleStatus = "closed"    // nothing left to do for the house (also: a cycle that had no guarantees)
	Failed    CycleStatus = "failed"    // not committed before its deadline: guarantees stay locked until redeemed
)

// at returns the cycle that a schedule has at t, which is not before From.
func (s Schedule) at(t uint64) Cycle {
	start := t - (t-s.From)%s.Length
	end := start + s.Length
	return Cycle{
		Ref: CycleRef{Asset: s.Asset, Start: start}, Status: Open, End: end,
		CutoffAt: end + s.Cutoff, PostDeadline: end + s.Cutoff + s.Post, Challenge: s.Challenge,
	}
}

// Cycle is a cycle's row. Times are unix seconds; those after the freeze are copied from the schedule when the row is
// made, as the chain derives them from the cycle's name.
type Cycle struct {
	Ref          CycleRef
	Status       CycleStatus
	End          uint64 // freeze
	CutoffAt     uint64 // last moment for notes; netting
	PostDeadline uint64
	Challenge    uint64 // seconds from the seal to finality
	Generation   uint64
	Guarantees   uint64       // counted when netted
	Gross        money.Amount // sum of payable, when netted
	Total        money.Amount // sum of net debits = sum of net credits
	Participants uint64
	Debtors      uint64
	Root         evm.Hash // R, stock clients' root
	Statements   evm.Hash // Q
	Height       uint8    // h, chunks of 2^h positions
	Posted       uint64   // chunks of this generation that are applied as posted
	Tries        uint64   // how often calls of this stage were made again after one was refused
	RetryAt      uint64   // not to be tried again before
	SealedAt     uint64   // chain time of the commit, once applied
	FinalAt      uint64   // SealedAt + Challenge
	Finalized    bool     // CycleFinalized is applied
	Trouble      string   // why it does not move, for people; empty if it does
}

// Role of a participant in a cycle, as the leaf of the tree spells it.
type Role uint8

// The roles.
const (
	Debtor   Role = 0
	Creditor Role = 1
	Flat     Role = 2
)

// PositionFlags are what the chain has told about a position.
type PositionFlags struct{ Paid, Claimed, Defaulted bool }

// Position is one participant's outcome of a cycle.
type Position struct {
	Index       uint64 // in posting order, ascending by participant
	Participant evm.Address
	Role        Role
	Amount      money.Amount // net debit or net credit; zero for Flat and only for it
	Out, In     money.Amount // gross
	Backed      money.Amount // of Out: refunds that In backs, which lock no collateral
	Statement   evm.Hash
	Filled      money.Amount // part of a debtor's amount that the operator's bond stood in for
	Flags       PositionFlags
}

// locked is what the participant's collateral stands for.
func (p Position) locked() money.Amount {
	rest, _ := p.Out.Sub(p.Backed)
	return rest
}

// Stream names one of the two passes over the chain's blocks.
type Stream string

// The streams. Head sees every block at once and counts withdrawal requests and lowered limits; Confirmed sees blocks
// at the configured depth and counts everything.
const (
	Head      Stream = "head"
	Confirmed Stream = "confirmed"
)

// Block is a block of the chain.
type Block struct {
	Number uint64
	Hash   evm.Hash
	Time   uint64 // unix seconds
}

// EventKind names what a log of the vault or the clearing house says.
type EventKind string

// The kinds of event, after the logs of docs/spec/clearing.md.
const (
	Deposited           EventKind = "deposited"            // Account, Asset, Amount
	Withdrawn           EventKind = "withdrawn"            // Account, Asset, Amount; ends the request
	WithdrawalRequested EventKind = "withdrawal_requested" // Account, Asset, Amount
	WithdrawalCanceled  EventKind = "withdrawal_canceled"  // Account, Asset
	AutoSettleSet       EventKind = "auto_settle_set"      // Account, On
	LimitSet            EventKind = "limit_set"            // Account, Asset, Amount, On: there is a limit
	PositionsPosted     EventKind = "positions_posted"     // Cycle, Generation, Chunk, Root = keccak256 of the chunk
	CycleCommitted      EventKind = "cycle_committed"      // Cycle, Asset, Root, Amount = total, Time = finality
	DebtFilled          EventKind = "debt_filled"          // Cycle, Account, Amount
	DebtorPaid          EventKind = "debtor_paid"          // Cycle, Account, Amount
	DebtorDefaulted     EventKind = "debtor_defaulted"     // Cycle, Account, Amount
	CreditorClaimed     EventKind = "creditor_claimed"     // Cycle, Account, Amount
	CycleFinalized      EventKind = "cycle_finalized"      // Cycle
	CycleVoided         EventKind = "cycle_voided"         // Cycle, Generation = the voided one, On: failed for good
	ChunkReleased       EventKind = "chunk_released"       // Cycle, Generation, Chunk
	BondChanged         EventKind = "bond_changed"         // Asset, Amount, On: added, else withdrawn
	ScheduleSet         EventKind = "schedule_set"         // Schedule
	SignerSet           EventKind = "signer_set"           // Account, Asset = the key, Time = until when it counts
)

// Event is what one log says, in plain values. The follower fills all but the last two members. Ignored says why the
// event changed nothing, and is empty if it was applied. Undo is what applying it replaced, kept so that a reorg can put
// it back; only package clearing reads it.
type Event struct {
	Kind       EventKind
	TxHash     evm.Hash
	LogIndex   uint64
	Account    evm.Address
	Asset      evm.Address
	Amount     money.Amount
	Cycle      evm.Hash
	Root       evm.Hash
	Generation uint64
	Chunk      uint64
	Time       uint64
	On         bool
	Schedule   *Schedule
	Ignored    string
	Undo       []byte
}

// Chain packs the calls that a cycle needs into bytes; it sends nothing. It chooses From and GasLimit and leaves the ID
// to the house. evm/chain implements it with the contracts' ABI, a simulated chain with its own.
type Chain interface {
	// Post posts one chunk of positions, 69 bytes each. Generation and chunk number say which, so that a call that comes
	// twice or out of turn changes nothing.
	Post(c CycleRef, generation, chunk uint64, height uint8, positions []byte) (evm.Call, error)
	// Commit seals the cycle. deadline, in unix seconds, is given for both of the reference's deadlines.
	Commit(c CycleRef, root evm.Hash, total money.Amount, deadline uint64, chunks int) (evm.Call, error)
	MarkDefaulted(cycle evm.Hash, debtor evm.Address, amount money.Amount, proof []evm.Hash) (evm.Call, error)
	Finalize(cycle evm.Hash) (evm.Call, error)
	Release(c CycleRef, generation, chunk uint64, positions []byte) (evm.Call, error)
}
