package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// APIVersion is the version of the events described here.
const APIVersion = "2026-06-01"

// Event is one webhook's body. CreatedAt is when what it tells of happened, by the chain's clock.
type Event struct {
	ID         string          `json:"id"` // evt_…
	Type       Type            `json:"type"`
	CreatedAt  time.Time       `json:"created_at"`
	APIVersion string          `json:"api_version"`
	Data       json.RawMessage `json:"data"`
}

// Decode reads the event's data into the struct that its type has.
func (e Event) Decode(data any) error {
	if err := json.Unmarshal(e.Data, data); err != nil {
		return fmt.Errorf("data of webhook %s: %w", e.ID, err)
	}
	return nil
}

// Receive reads a webhook from a request, verifies and decodes it.
func Receive(r *http.Request, now time.Time, secrets ...Secret) (e Event, err error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, BodyBytesMax+1))
	switch {
	case err != nil:
		return e, fmt.Errorf("read webhook: %w", err)
	case len(body) > BodyBytesMax:
		return e, fmt.Errorf("read webhook: larger than %d bytes", BodyBytesMax)
	}
	if err := Verify(r.Header, body, now, secrets...); err != nil {
		return e, err
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, fmt.Errorf("read webhook: %w", err)
	}
	if e.ID != r.Header.Get(HeaderID) {
		return Event{}, errors.New("read webhook: body and header have different ids")
	}
	return e, nil
}

// Type says what an event tells, and which struct its data is.
type Type string

// The types of event. Those of a guarantee and of a withdrawal go to whom they are about; those of a cycle to each
// participant, with its own position.
const (
	CollateralDeposited     Type = "collateral.deposited"      // Deposit
	WithdrawalRequested     Type = "withdrawal.requested"      // Withdrawal
	WithdrawalCancelled     Type = "withdrawal.cancelled"      // Withdrawal
	WithdrawalFinalized     Type = "withdrawal.finalized"      // Withdrawal
	GuaranteeSettled        Type = "guarantee.settled"         // Guarantee
	GuaranteeDefaultCovered Type = "guarantee.default_covered" // Guarantee: its payer did not pay, its payee is funded all the same
	CycleCommitted          Type = "cycle.committed"           // Cycle
	CycleFinalized          Type = "cycle.finalized"           // Cycle
	CycleVoided             Type = "cycle.voided"              // Cycle: what its earlier events said of settling is taken back
	PositionFilled          Type = "position.filled"           // Position: the operator's bond stood in for a debtor
	PositionPaid            Type = "position.paid"             // Position
	PositionDefaulted       Type = "position.defaulted"        // Position
	PositionClaimed         Type = "position.claimed"          // Position
	EventVoided             Type = "event.voided"              // Voided: the chain took back what an event told
	Test                    Type = "webhook.test"              // Ping
)

// Types lists every type that an endpoint can ask for. Test and EventVoided come unasked.
var Types = []Type{
	CollateralDeposited, WithdrawalRequested, WithdrawalCancelled, WithdrawalFinalized, GuaranteeSettled, GuaranteeDefaultCovered,
	CycleCommitted, CycleFinalized, CycleVoided, PositionFilled, PositionPaid, PositionDefaulted, PositionClaimed,
}

// Known reports whether an endpoint can ask for the type.
func (t Type) Known() bool { return slices.Contains(Types, t) }

// Deposit is collateral that has arrived and is deep enough to count.
type Deposit struct {
	User    evm.Address  `json:"user_address"`
	Asset   evm.Address  `json:"asset_address"`
	Amount  money.Amount `json:"amount"`
	Network string       `json:"network"` // CAIP-2
	Tx      evm.Hash     `json:"transaction_hash"`
	Block   uint64       `json:"block_number"`
	Status  string       `json:"status"` // finalized
}

// Withdrawal is a request to take collateral out, and what became of it. Tx is the transaction of the event.
type Withdrawal struct {
	ID          evm.Hash     `json:"withdrawal_id"` // of the request, the same until its end
	User        evm.Address  `json:"user_address"`
	Asset       evm.Address  `json:"asset_address"`
	Amount      money.Amount `json:"amount"`
	Network     string       `json:"network"`
	RequestedAt time.Time    `json:"requested_at"`
	AvailableAt time.Time    `json:"available_at"`
	FinalizedAt time.Time    `json:"finalized_at,omitzero"`
	Tx          evm.Hash     `json:"transaction_hash"`
	Status      string       `json:"status"` // pending, cancelled, finalized
}

// Guarantee is one guarantee at the end of its way.
type Guarantee struct {
	ID        evm.Hash     `json:"guarantee_id"`
	ReqID     evm.Hash     `json:"req_id"`
	Cycle     evm.Hash     `json:"cycle_id"`
	Version   uint64       `json:"version"`
	User      evm.Address  `json:"user_address"` // payer
	Recipient evm.Address  `json:"recipient_address"`
	Asset     evm.Address  `json:"asset_address"`
	Amount    money.Amount `json:"amount"` // payable
	Network   string       `json:"network"`
	Status    string       `json:"status"` // SETTLED, DEFAULT_REMUNERATED
	SettledAt time.Time    `json:"settled_at"`
}

// Cycle is a cycle, with the position of the wallet that is told; the operator is told of none.
type Cycle struct {
	ID         evm.Hash     `json:"cycle_id"`
	Text       string       `json:"cycle_id_text"`
	Asset      evm.Address  `json:"asset_address"`
	Generation uint64       `json:"generation"`
	Total      money.Amount `json:"total"` // of net debits
	Root       evm.Hash     `json:"merkle_root"`
	Network    string       `json:"network"`
	FinalAt    time.Time    `json:"final_at,omitzero"`
	Tx         evm.Hash     `json:"transaction_hash"`
	Block      uint64       `json:"block_number"`
	Status     string       `json:"status"` // committed, finalized, voided, failed
	Net        *Net         `json:"position,omitempty"`
}

// Net is what a cycle came to for a wallet.
type Net struct {
	User   evm.Address  `json:"user_address"`
	Role   string       `json:"role"` // debtor, creditor, flat
	Amount money.Amount `json:"amount"`
	Out    money.Amount `json:"out"`
	In     money.Amount `json:"in"`
}

// Position is what happened to one wallet's position in a cycle.
type Position struct {
	Cycle   evm.Hash     `json:"cycle_id"`
	Text    string       `json:"cycle_id_text"`
	User    evm.Address  `json:"user_address"`
	Asset   evm.Address  `json:"asset_address"`
	Amount  money.Amount `json:"amount"`
	Network string       `json:"network"`
	Tx      evm.Hash     `json:"transaction_hash"`
	Block   uint64       `json:"block_number"`
	Status  string       `json:"status"` // filled, paid, defaulted, claimed
}

// Voided names an event that no longer holds. What happened again in another block is told by an event of its own.
type Voided struct {
	Event string `json:"event_id"`
	Type  Type   `json:"event_type"`
	Block uint64 `json:"block_number"` // in which it had happened
}

// Ping is what a test says.
type Ping struct {
	Message string `json:"message"`
}
