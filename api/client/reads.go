package client

import (
	"context"
	"net/url"
	"strconv"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// Cycle is one asset's cycle as the clearing house sees it. Times are unix seconds, 0 for what has not happened.
type Cycle struct {
	ID           evm.Hash     `json:"cycle_id"`
	Text         string       `json:"cycle_id_text"`
	Asset        evm.Address  `json:"asset_address"`
	Status       string       `json:"status"` // as 4Mica spells it
	State        string       `json:"state"`  // open, frozen, netted, committed, final, closed, failed
	Generation   uint64       `json:"generation"`
	Start        uint64       `json:"period_start"`
	End          uint64       `json:"period_end"`
	Cutoff       uint64       `json:"resolution_cutoff"`
	PostDeadline uint64       `json:"post_deadline"`
	SealedAt     uint64       `json:"sealed_at"`
	FinalAt      uint64       `json:"final_at"`
	Guarantees   uint64       `json:"guarantees"`
	Participants uint64       `json:"participants"`
	Debtors      uint64       `json:"debtors"`
	Gross        money.Amount `json:"gross"`
	Total        money.Amount `json:"total"`
	Root         evm.Hash     `json:"merkle_root"`
	Statements   evm.Hash     `json:"statement_root"`
	Trouble      string       `json:"trouble"`
}

// Proof is a participant's outcome of a committed cycle, and the proof of it under the cycle's root.
type Proof struct {
	Cycle       evm.Hash     `json:"cycle_id"`
	CycleText   string       `json:"cycle_id_text"`
	Asset       evm.Address  `json:"asset_address"`
	Participant evm.Address  `json:"participant"`
	Role        string       `json:"role"` // NET_DEBTOR, NET_CREDITOR
	Amount      money.Amount `json:"amount"`
	NetDebit    money.Amount `json:"net_debit"`
	NetCredit   money.Amount `json:"net_credit"`
	Leaf        evm.Hash     `json:"leaf"`
	Root        evm.Hash     `json:"merkle_root"`
	Proof       []evm.Hash   `json:"proof"`
}

// Action is a call of the clearing contract that settles or collects, ready to be packed.
type Action struct {
	Contract     evm.Address  `json:"contract_address"`
	Function     string       `json:"function_name"`
	Action       string       `json:"action"`
	Cycle        evm.Hash     `json:"cycle_id"`
	CycleText    string       `json:"cycle_id_text"`
	Asset        evm.Address  `json:"asset_address"`
	Participant  evm.Address  `json:"participant"`
	Debtor       *evm.Address `json:"debtor"` // only of mark_defaulted
	Amount       money.Amount `json:"amount"`
	PayableValue money.Amount `json:"payable_value"` // wei to send along
	Proof        []evm.Hash   `json:"proof"`
}

// The actions of [Client.Action].
const (
	PayNetDebit    = "pay_net_debit"
	ClaimNetCredit = "claim_net_credit"
	MarkDefaulted  = "mark_defaulted"
)

// Balance is what a buyer can still promise.
type Balance struct {
	User       evm.Address  `json:"user_address"`
	Asset      evm.Address  `json:"asset_address"`
	Collateral money.Amount `json:"collateral"` // confirmed
	Exposure   money.Amount `json:"exposure"`   // guaranteed and not settled yet
	Withdrawal money.Amount `json:"withdrawal"` // asked back from the vault
	Headroom   money.Amount `json:"headroom"`   // what is left to promise
}

// Guarantee is an admitted guarantee as the clearing house sees it.
type Guarantee struct {
	ID        evm.Hash              `json:"guarantee_id"`
	Digest    evm.Hash              `json:"digest"`
	Cycle     evm.Hash              `json:"cycle_id"`
	CycleText string                `json:"cycle_id_text"`
	Status    string                `json:"status"` // as 4Mica spells it
	Signed    guarantee.Signed      `json:"request"`
	Payable   money.Amount          `json:"payable"`
	Note      *guarantee.SignedNote `json:"note"`
	At        int64                 `json:"admitted_at_ms"` // unix milliseconds
}

// Current returns the cycle that takes guarantees in an asset now.
func (c *Client) Current(ctx context.Context, asset evm.Address) (out Cycle, err error) {
	err = c.get(ctx, "/core/cycles/current?asset="+asset.Lower(), &out)
	return out, err
}

// Cycle returns a cycle by its id: the text form, or the 32 bytes in hexadecimal.
func (c *Client) Cycle(ctx context.Context, id string) (out Cycle, err error) {
	err = c.get(ctx, "/core/cycles/"+url.PathEscape(id), &out)
	return out, err
}

// Cycles returns an asset's newest cycles first, at most limit; 0 leaves the number to the clearing house.
func (c *Client) Cycles(ctx context.Context, asset evm.Address, limit int) ([]Cycle, error) {
	q := url.Values{"asset": {asset.Lower()}}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out struct {
		Cycles []Cycle `json:"cycles"`
	}
	err := c.get(ctx, "/core/cycles?"+q.Encode(), &out)
	return out.Cycles, err
}

// Unsettled returns the cycles that a participant has a claim on or owes to, newest first, at most limit.
func (c *Client) Unsettled(ctx context.Context, asset, participant evm.Address, limit int) ([]Cycle, error) {
	q := url.Values{"asset": {asset.Lower()}, "limit": {strconv.Itoa(limit)}}
	var out struct {
		Cycles []Cycle `json:"cycles"`
	}
	err := c.get(ctx, "/core/participants/"+participant.Lower()+"/unsettled?"+q.Encode(), &out)
	return out.Cycles, err
}

// Proof returns a participant's outcome of a cycle with its proof.
func (c *Client) Proof(ctx context.Context, cycle string, participant evm.Address) (out Proof, err error) {
	err = c.getOwn(ctx, participantPath(cycle, participant)+"/clearing-proof", &out)
	return out, err
}

// Action returns the contract call by which a participant settles, collects, or is marked defaulted by anyone.
func (c *Client) Action(ctx context.Context, cycle string, participant evm.Address, action string) (out Action, err error) {
	err = c.getOwn(ctx, participantPath(cycle, participant)+"/clearing-action?action="+url.QueryEscape(action), &out)
	return out, err
}

// Balance returns a buyer's collateral and what is left of it.
func (c *Client) Balance(ctx context.Context, user, asset evm.Address) (out Balance, err error) {
	err = c.getOwn(ctx, "/core/users/"+user.Lower()+"/balance?asset="+asset.Lower(), &out)
	return out, err
}

// Guarantee returns an admitted guarantee by its digest.
func (c *Client) Guarantee(ctx context.Context, digest evm.Hash) (out Guarantee, err error) {
	err = c.getOwn(ctx, "/core/guarantees/"+digest.String(), &out)
	return out, err
}

func participantPath(cycle string, participant evm.Address) string {
	return "/core/cycles/" + url.PathEscape(cycle) + "/participants/" + participant.Lower()
}

// Signer is a key that an owner has named to sign its notes.
type Signer struct {
	Key   evm.Address `json:"key"`
	Until uint64      `json:"until"` // unix seconds from which it no longer does; 0 while it is not removed
}

// Signers returns the keys that sign an owner's notes beside its own, as far as the clearing house has seen them, those
// that have ended included.
func (c *Client) Signers(ctx context.Context, owner evm.Address) ([]Signer, error) {
	var answer struct {
		Signers []Signer `json:"signers"`
	}
	err := c.get(ctx, "/core/signers/"+owner.Lower(), &answer)
	return answer.Signers, err
}
