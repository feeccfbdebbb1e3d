package chain

import (
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Event is one of the types below it.
type Event any

// Events of the vault.
type (
	// Deposited adds to an owner's collateral.
	Deposited struct {
		Owner, Asset evm.Address
		Amount       money.Amount
	}
	// Withdrawn has taken from an owner's collateral and ended its request.
	Withdrawn struct {
		Owner, Asset evm.Address
		Amount       money.Amount
	}
	// WithdrawalRequested starts a withdrawal's clock at When, in Unix seconds, and replaces an earlier request.
	WithdrawalRequested struct {
		Owner, Asset evm.Address
		When         uint64
		Amount       money.Amount
	}
	// WithdrawalCanceled ends a request.
	WithdrawalCanceled struct{ Owner, Asset evm.Address }
	// AutoSettleSet is an owner's word on being settled from collateral.
	AutoSettleSet struct {
		Owner evm.Address
		On    bool
	}
	// LimitPerCycleSet caps what a cycle may take, from cycles that start at FromStart; 0 means at once. A limit of
	// [NoLimit] is none.
	LimitPerCycleSet struct {
		Owner, Asset evm.Address
		Limit        money.Amount
		FromStart    uint64
	}
	// SignerSet names a key that signs for an owner from From on, or ends it at Until, both in Unix seconds; the largest
	// number is no end.
	SignerSet struct {
		Owner, Key  evm.Address
		From, Until uint64
	}
	// StablecoinAssetUpdated lists a token, or announces the end of its deposits.
	StablecoinAssetUpdated struct {
		Asset   evm.Address
		Enabled bool
	}
	// BondDeposited adds to the operator's bond.
	BondDeposited struct {
		Asset  evm.Address
		Amount money.Amount
	}
	// BondWithdrawn has taken from the operator's bond.
	BondWithdrawn struct {
		Asset, To evm.Address
		Amount    money.Amount
	}
	// KeyRegistered lets a key certify cycles from FromStart.
	KeyRegistered struct {
		Index     uint64
		FromStart uint64
	}
	// KeyRevoked ends what a key may certify before UntilStart.
	KeyRevoked struct {
		Index      uint64
		UntilStart uint64
	}
)

// Events of the clearing house.
type (
	// CycleCommitted seals a cycle; Finality is when its challenge window ends, in Unix seconds.
	CycleCommitted struct {
		Cycle    evm.Hash
		Asset    evm.Address
		Root     evm.Hash
		Total    money.Amount
		Finality uint64
	}
	// DebtorPaid is a net debit paid by its debtor.
	DebtorPaid struct {
		Cycle  evm.Hash
		Debtor evm.Address
		Amount money.Amount
	}
	// CreditorClaimed is a net credit that its creditor has collected.
	CreditorClaimed struct {
		Cycle    evm.Hash
		Creditor evm.Address
		Amount   money.Amount
	}
	// DebtorDefaulted marks a debtor that did not pay.
	DebtorDefaulted struct {
		Cycle  evm.Hash
		Debtor evm.Address
		Amount money.Amount
	}
	// DefaultCovered says that a default had been covered when the cycle was posted.
	DefaultCovered struct {
		Cycle  evm.Hash
		Debtor evm.Address
		Amount money.Amount
	}
	// CycleFinalized opens a cycle's claims.
	CycleFinalized struct{ Cycle evm.Hash }
	// PositionsPosted is one chunk of a cycle's positions; the bytes are in the transaction.
	PositionsPosted struct {
		Cycle             evm.Hash
		Generation, Chunk uint64
		ChunkHash         evm.Hash
		Count             uint64
	}
	// DebtFilled is what the bond stood in for a debtor with.
	DebtFilled struct {
		Cycle  evm.Hash
		Debtor evm.Address
		Amount money.Amount
	}
	// ChunkReleased has given back what a chunk took.
	ChunkReleased struct {
		Cycle             evm.Hash
		Generation, Chunk uint64
	}
	// CycleVoided is a proof against a posted cycle; Failed means that it is not posted again.
	CycleVoided struct {
		Cycle      evm.Hash
		Generation uint64
		Failed     bool
	}
	// ScheduleSet is a version of an asset's cycle times.
	ScheduleSet struct {
		Asset    evm.Address
		Schedule Schedule
	}
	// OperatorReplaced names who posts from now on.
	OperatorReplaced struct{ Operator evm.Address }
)

// Addresses returns the contracts whose logs [Contracts.Decode] reads.
func (c Contracts) Addresses() []evm.Address { return []evm.Address{c.Vault, c.ClearingHouse} }

// Decode reads a log of the vault or the clearing house. It returns nil for logs of other contracts and for events that
// have no type here; a log that does not fit its event is an error.
func (c Contracts) Decode(l evm.Log) (Event, error) {
	var contract abi.ABI
	switch l.Address {
	case c.Vault:
		contract = vaultABI
	case c.ClearingHouse:
		contract = houseABI
	default:
		return nil, nil
	}
	if len(l.Topics) == 0 {
		return nil, nil
	}
	event, err := contract.EventByID(common.Hash(l.Topics[0]))
	if err != nil {
		return nil, nil // of a newer contract
	}
	f, err := fieldsOf(event, l)
	if err != nil {
		return nil, fmt.Errorf("read log %d of %v, %s: %w", l.Index, l.TxHash, event.Name, err)
	}
	return f.event(event.Name), nil
}

func (f fields) event(name string) Event {
	switch name {
	case "CollateralDeposited":
		return Deposited{f.address("user"), f.address("asset"), f.amount("amount")}
	case "CollateralWithdrawn":
		return Withdrawn{f.address("user"), f.address("asset"), f.amount("amount")}
	case "WithdrawalRequested":
		return WithdrawalRequested{f.address("user"), f.address("asset"), f.number("when"), f.amount("amount")}
	case "WithdrawalCanceled":
		return WithdrawalCanceled{f.address("user"), f.address("asset")}
	case "AutoSettleSet":
		return AutoSettleSet{f.address("user"), f.yes("on")}
	case "LimitPerCycleSet":
		return LimitPerCycleSet{f.address("user"), f.address("asset"), f.amount("limit"), f.number("fromStart")}
	case "SignerSet":
		return SignerSet{f.address("owner"), f.address("key"), f.number("from"), f.number("until")}
	case "StablecoinAssetUpdated":
		return StablecoinAssetUpdated{f.address("asset"), f.yes("enabled")}
	case "BondDeposited":
		return BondDeposited{f.address("asset"), f.amount("amount")}
	case "BondWithdrawn":
		return BondWithdrawn{f.address("asset"), f.address("to"), f.amount("amount")}
	case "KeyRegistered":
		return KeyRegistered{f.number("index"), f.number("fromStart")}
	case "KeyRevoked":
		return KeyRevoked{f.number("index"), f.number("untilStart")}
	case "CycleCommitted":
		return CycleCommitted{f.hash("cycleId"), f.address("asset"), f.hash("merkleRoot"), f.amount("totalNetDebit"), f.number("paymentFinalityDeadline")}
	case "DebtorPaid":
		return DebtorPaid{f.hash("cycleId"), f.address("debtor"), f.amount("amount")}
	case "CreditorClaimed":
		return CreditorClaimed{f.hash("cycleId"), f.address("creditor"), f.amount("amount")}
	case "DebtorDefaulted":
		return DebtorDefaulted{f.hash("cycleId"), f.address("debtor"), f.amount("amount")}
	case "DefaultCovered":
		return DefaultCovered{f.hash("cycleId"), f.address("debtor"), f.amount("amount")}
	case "CycleFinalized":
		return CycleFinalized{f.hash("cycleId")}
	case "PositionsPosted":
		return PositionsPosted{f.hash("cycleId"), f.number("generation"), f.number("chunk"), f.hash("chunkHash"), f.number("count")}
	case "DebtFilled":
		return DebtFilled{f.hash("cycleId"), f.address("debtor"), f.amount("amount")}
	case "ChunkReleased":
		return ChunkReleased{f.hash("cycleId"), f.number("generation"), f.number("chunk")}
	case "CycleVoided":
		return CycleVoided{f.hash("cycleId"), f.number("generation"), f.yes("failed")}
	case "ScheduleSet":
		return ScheduleSet{f.address("asset"), Schedule{
			FromStart: f.number("fromStart"), Length: f.seconds("length"), Cutoff: f.seconds("cutoff"), Post: f.seconds("post"),
			Challenge: f.seconds("challenge"), Repost: f.seconds("repost"), Redeem: f.seconds("redeem"),
		}}
	case "OperatorReplaced":
		return OperatorReplaced{f.address("operator")}
	}
	return nil
}

// fields are the values of an event by the names of the contract's interface. The getters trust that names and types
// fit the artifact: the tests decode every event.
type fields map[string]any

func fieldsOf(event *abi.Event, l evm.Log) (fields, error) {
	f := make(fields)
	if err := event.Inputs.UnpackIntoMap(f, l.Data); err != nil && len(event.Inputs.NonIndexed()) > 0 {
		return nil, err
	}
	var indexed abi.Arguments
	for _, input := range event.Inputs {
		if input.Indexed {
			indexed = append(indexed, input)
		}
	}
	if len(l.Topics) != len(indexed)+1 {
		return nil, fmt.Errorf("%d topics, want %d", len(l.Topics), len(indexed)+1)
	}
	topics := make([]common.Hash, len(indexed))
	for i := range topics {
		topics[i] = common.Hash(l.Topics[i+1])
	}
	return f, abi.ParseTopicsIntoMap(f, indexed, topics)
}

func (f fields) address(name string) evm.Address { return evm.Address(f[name].(common.Address)) }
func (f fields) hash(name string) evm.Hash       { return evm.Hash(f[name].([32]byte)) }
func (f fields) yes(name string) bool            { return f[name].(bool) }
func (f fields) amount(name string) money.Amount { return amountOf(f[name].(*big.Int)) }
func (f fields) seconds(name string) uint32      { return uint32(f.number(name)) }

// number returns an integer of any width. Those of 256 bits that we read as numbers are counts and times, which fit.
func (f fields) number(name string) uint64 {
	switch v := f[name].(type) {
	case uint32:
		return uint64(v)
	case uint64:
		return v
	default:
		return f[name].(*big.Int).Uint64()
	}
}
