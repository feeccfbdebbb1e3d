package clearing

import (
	"context"
	"iter"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/ledger"
	"github.com/farthing402/farthing/money"
)

// Book keeps everything that the clearing house knows. Write runs fn in one transaction: when Write returns nil, what fn
// wrote is on disk; when it returns an error, none of it is. Implementations may run several callers' closures in one
// physical transaction, one after the other, and may run a closure again after undoing it, so fn must not keep what it
// read from a run that failed. An error of Write does not always mean that nothing is on disk (the answer to the commit may
// be lost), so callers write what can be asked for again. A Tx is for the goroutine that runs fn, and only until fn returns.
//
// Writes may run side by side, also on several nodes, and are serializable all the same: what fn read still holds when its
// writes become visible. What that takes of fn is said at the methods of [Tx]: a payer's account is read before anything
// else of that payer, and who reads several rows does it in one order, or else is run again. A book that has a method
// SideBySide() int says by it how many groups of admissions are best written at once.
type Book interface {
	Read(ctx context.Context, fn func(Tx) error) error
	Write(ctx context.Context, fn func(Tx) error) error
}

// Tx is a transaction on the [Book]. It holds no rule: it stores what package clearing decided. A row that is not there
// is the zero value and false, never an error; errors are those of the store. While an iterator runs, no other method is
// called.
type Tx interface {
	// Account returns the owner's account, a zero one if there is none yet. Who has read it in a write is alone with all that
	// is that payer's in the asset, its guarantees and what they come to, until the write ends.
	Account(owner, asset evm.Address) (Account, error)
	PutAccount(Account) error
	// Accounts is Account of several, in the order given.
	Accounts([]AccountKey) ([]Account, error)
	// Balance is for the accounts that are no owner's collateral: world, pot, bond.
	Balance(ledger.Account) (ledger.Balance, error)
	PutBalance(ledger.Account, ledger.Balance) error
	// AddTransfer appends a transfer; an ID that is there already is an error.
	AddTransfer(ledger.Transfer) error
	// DropTransfer forgets a transfer whose block a reorg took away, so that the same one can be added again; an ID that
	// is not there is an error.
	DropTransfer(id string) error
	// Balances yields every account of the asset, collateral included, in any order, for checks and figures. Accounts that
	// never had a balance other than zero may be left out.
	Balances(asset evm.Address) iter.Seq2[BalanceRow, error]

	GuaranteeByKey(guarantee.Key) (Guarantee, bool, error)
	// GuaranteesByKey returns those of the keys that are there.
	GuaranteesByKey([]guarantee.Key) (map[guarantee.Key]Guarantee, error)
	GuaranteeByDigest(evm.Hash) (Guarantee, bool, error)
	// AddGuarantee's key must be new, and so its digest is. Whether it is may be found out at the end of the write.
	AddGuarantee(Guarantee) error
	// LowerGuarantee replaces what is payable, the note that says so, and the evidence with it. The guarantee must be there.
	LowerGuarantee(digest evm.Hash, payable money.Amount, note guarantee.SignedNote, evidence evm.Hash) error
	// PledgeGuarantee replaces what of a guarantee backs refunds. The guarantee must be there.
	PledgeGuarantee(digest evm.Hash, pledged money.Amount) error
	// Guarantees yields those that a cycle nets, in the order in which they were admitted. No cycle nets one that waits for its
	// validator or waited in vain: those are under [Nowhere].
	Guarantees(CycleRef) iter.Seq2[Guarantee, error]
	// GuaranteesOf yields those of a cycle in which the participant is payer or payee.
	GuaranteesOf(c CycleRef, participant evm.Address) iter.Seq2[Guarantee, error]
	// Refunds yields those of a cycle of which something is backed or pledged, in any order.
	Refunds(CycleRef) iter.Seq2[Guarantee, error]
	// Lines yields all guarantees of a cycle as netting needs them, in any order, many at a time. Each page is its receiver's.
	Lines(CycleRef) iter.Seq2[[]Line, error]
	// PutValidation replaces where a guarantee stands with its validator, what is payable, and with them the cycle that nets
	// it. The guarantee must be there and have a policy.
	PutValidation(digest evm.Hash, payable money.Amount, v Validation) error
	// Unanswered returns which guarantees are due to be asked about, the longest due first.
	Unanswered(due uint64, limit int) ([]evm.Hash, error)
	// Unasked reports whether a guarantee waits for its validator, whose certificate names a cycle of the asset that starts at
	// start or earlier, and whose registry was not asked in a block at or after a time.
	Unasked(asset evm.Address, start, at uint64) (bool, error)
	// Decided returns the guarantees whose validation was decided in blocks above a number, in any order.
	Decided(above uint64) ([]evm.Hash, error)

	// List returns guarantees, the newest first: by the cycle that nets them, and in each by admission; those that no cycle nets
	// stand behind all others. It reads only those that it returns.
	List(Listing) ([]Listed, error)
	// PayableBy sums what a payer's guarantees of a cycle come to.
	PayableBy(c CycleRef, payer evm.Address) (money.Amount, error)
	// PayableByEach yields PayableBy of every payer of a cycle, in any order.
	PayableByEach(CycleRef) iter.Seq2[PayerSum, error]

	// Cycle and CycleByID are for who may change the cycle: until the write ends, nobody else gets it to change or to rely on.
	Cycle(CycleRef) (Cycle, bool, error)
	CycleByID(evm.Hash) (Cycle, bool, error)
	// KeptCycle is for who relies on what the cycle says and does not change it: nobody changes it until the write ends, and
	// others may rely on it as well. One that is not there may be put.
	KeptCycle(CycleRef) (Cycle, bool, error)
	PutCycle(Cycle) error
	// Cycles returns the newest first; open says to leave out those whose status is Closed. limit 0 is no limit.
	Cycles(asset evm.Address, open bool, limit int) ([]Cycle, error)
	// CyclesBefore returns those that start before a time, or all for 0; the newest first, at most limit.
	CyclesBefore(asset evm.Address, start uint64, limit int) ([]Cycle, error)

	// PutPositions replaces all positions of the cycle and generation.
	PutPositions(c CycleRef, generation uint64, ps []Position) error
	Positions(c CycleRef, generation uint64) ([]Position, error) // ascending by Index
	Position(c CycleRef, generation uint64, participant evm.Address) (Position, bool, error)
	// Unsettled returns the cycles, newest first, in whose present generation the participant is a creditor that has not
	// claimed, or a debtor that has neither paid nor defaulted. limit 0 is no limit.
	Unsettled(asset, participant evm.Address, limit int) ([]CycleRef, error)
	// MarkPosition sets one participant's flags and what the bond stood in for. The position must be there.
	MarkPosition(c CycleRef, generation uint64, participant evm.Address, filled money.Amount, flags PositionFlags) error

	Schedules(asset evm.Address) ([]Schedule, error) // ascending by From
	PutSchedule(Schedule) error                      // replaces the one with the same From
	DropSchedule(asset evm.Address, from uint64) error

	// Signer returns a key that an owner has named, and whether it ever did; Signers returns all of them, ascending by key.
	Signer(owner, key evm.Address) (Signer, bool, error)
	Signers(owner evm.Address) ([]Signer, error)
	PutSigner(Signer) error // replaces the one with the same owner and key
	DropSigner(owner, key evm.Address) error
	Assets() ([]evm.Address, error) // those that have a schedule

	Wallet(evm.Address) (Wallet, bool, error)
	PutWallet(Wallet) error
	// Wallets returns those above after, ascending by address, at most limit.
	Wallets(after evm.Address, limit int) ([]Wallet, error)
	// WalletsStamp differs from what it was before the last PutWallet, and from every other one that there ever was; also
	// from those of writes that were undone.
	WalletsStamp() (uint64, error)

	// Enqueue puts a call into the outbox in this transaction. The same ID and bytes again change nothing; the same ID
	// with other bytes is an error.
	Enqueue(evm.Call) error
	CallState(id string) (evm.CallState, bool, error)

	// AloneOn is how a write begins that applies or drops blocks of a stream: others that do wait until it ends.
	AloneOn(Stream) error
	// Blocks returns the blocks applied on a stream, newest first, at most limit.
	Blocks(stream Stream, limit int) ([]Block, error)
	// PutBlock records a block as applied on the stream with the events that it brought. Its number must be higher than
	// any on the stream.
	PutBlock(stream Stream, b Block, events []Event) error
	// DropBlock forgets the newest block of the stream, which must have this number, and returns its events in the order
	// in which they were applied.
	DropBlock(stream Stream, number uint64) ([]Event, error)
	// PruneBlocks forgets the blocks of the stream before number: they can no longer be unwound.
	PruneBlocks(stream Stream, number uint64) error
}

// AccountKey names an account.
type AccountKey struct{ Owner, Asset evm.Address }

// BalanceRow is an account and its balance.
type BalanceRow struct {
	Account ledger.Account
	Balance ledger.Balance
}
