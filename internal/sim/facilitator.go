package sim

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/payer"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/x402"
)

// Facilitator is a real facilitator over a chain's model, with its gas desk and one sender. It is for tests in which nobody
// else makes blocks: it makes them itself until what it is asked for is settled, so an answer is final. Make one with
// [NewFacilitator]; it is safe for concurrent use.
type Facilitator struct {
	*facilitator.Facilitator
	chain *Chain
	desk  *desk.Desk
	now   func() time.Time

	mu sync.Mutex // one beat at a time
}

// NewFacilitator makes a facilitator for the tokens of a network, which it deploys. lane is the account that sends.
func NewFacilitator(ctx context.Context, c *Chain, on network.Chain, lane evm.Address, now func() time.Time) (*Facilitator, error) {
	c.Deploy(on.Tokens...)
	book := NewSettlements()
	n, err := facilitator.Open(ctx, facilitator.NetworkConfig{
		Chain: on, Node: c.Node(), Book: book, Depth: facilitatorDepth, Now: now,
		Lanes: []desk.Lane{&Lane{Chain: c, Account: lane, Calls: book.Calls(), Depth: facilitatorDepth}},
	})
	if err != nil {
		return nil, err
	}
	f, err := Impatient(facilitator.Config{Networks: []*facilitator.Network{n}, Now: now})
	if err != nil {
		return nil, err
	}
	return &Facilitator{Facilitator: f, chain: c, desk: n.Desk(), now: now}, nil
}

// facilitatorDepth is how many blocks a [Facilitator] makes on top of a settlement.
const facilitatorDepth = 1

// Impatient makes a real facilitator that never waits: what is not settled when it is asked is answered with
// settlement_pending. Whoever has it steps its desks.
func Impatient(c facilitator.Config) (*facilitator.Facilitator, error) {
	f, err := facilitator.New(c)
	if err != nil {
		return nil, err
	}
	done, stop := context.WithCancel(context.Background())
	stop()
	networks := f.Networks
	f.Networks = nil // or its loop could make one more pass
	err = f.Run(done)
	f.Networks = networks
	return f, err
}

// beatsMax is how many blocks a settlement may take: one for each step before it, and its depth.
const beatsMax = 16

// Settle implements [x402.Facilitator]. It makes blocks until the settlement is final. A seller's extra.settleWithin is
// passed over, since nobody else's payments come meanwhile.
func (f *Facilitator) Settle(ctx context.Context, p x402.Payment, r x402.Requirements) (x402.SettleResponse, error) {
	r.Extra = maps.Clone(r.Extra)
	delete(r.Extra, "settleWithin")
	for beats := 0; ; beats++ {
		s, err := f.Facilitator.Settle(ctx, p, r)
		if err != nil || s.ErrorReason != "settlement_pending" || beats == beatsMax {
			return s, err
		}
		if err := f.beat(ctx); err != nil {
			return s, err
		}
	}
}

func (f *Facilitator) beat(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.desk.Step(ctx, f.now()); err != nil {
		return err
	}
	f.chain.MineAt(uint64(f.now().Unix()), nil)
	return f.desk.Step(ctx, f.now())
}

// Window is a seller's own look at its chain, and its way to send refunds. It implements [paywall.Witness] and
// [paywall.Cashier].
type Window struct {
	Chain *Chain
	Calls *evm.MemoryOutbox
	Lane  *Lane  // of the payee
	Depth uint64 // blocks on top of a transfer's block before it counts
	Beat  func() // between the passes of a payment, until it is done; nil: one pass each time
}

var (
	_ paywall.Witness = (*Window)(nil)
	_ paywall.Cashier = (*Window)(nil)
)

// Moved implements [paywall.Witness].
func (w *Window) Moved(ctx context.Context, on string, a exact.Authorization, amount money.Amount, _ evm.Hash) (paywall.Fate, evm.Hash, error) {
	if on != fmt.Sprintf("eip155:%d", w.Chain.deployment.ChainID) {
		return paywall.Unseen, evm.Hash{}, nil
	}
	tx, to, moved, ok := w.Chain.Carried(a)
	switch {
	case !ok:
		return paywall.Unspent, evm.Hash{}, nil
	case to != a.To || moved != amount:
		return paywall.Spent, tx, nil
	}
	r, err := w.Chain.Node().Receipt(ctx, tx)
	if head := w.Chain.Head().Number; err == nil && (r == nil || r.BlockNumber+w.Depth > head) {
		err = fmt.Errorf("transaction %s is not deep enough", tx.Short())
	}
	return paywall.Moved, tx, err
}

// Pay implements [paywall.Cashier].
func (w *Window) Pay(ctx context.Context, id, _ string, token, to evm.Address, amount money.Amount) (evm.Hash, bool, error) {
	err := w.Calls.Enqueue(ctx, evm.Call{ID: id, From: w.Lane.Account, To: token, Data: TransferCall(to, amount), GasLimit: 2 * gasEach})
	for beats := 0; err == nil; beats++ {
		var call evm.SentCall
		if err = w.Lane.Step(ctx, time.Time{}); err == nil {
			call, err = w.Calls.Find(ctx, id)
		}
		switch {
		case err != nil:
		case call.State == evm.CallDone:
			return call.Receipt.TxHash, true, nil
		case call.State == evm.CallReverted:
			return evm.Hash{}, false, x402.Errorf("refund_refused", "the refund's transfer was refused: %s", call.Err)
		case w.Beat == nil || beats == beatsMax:
			return evm.Hash{}, false, nil
		default:
			w.Beat()
		}
	}
	return evm.Hash{}, false, err
}

// Purse is a buyer's own look at its chain. It implements [payer.Wallet].
type Purse struct{ *Chain }

var _ payer.Wallet = Purse{}

// Networks implements [payer.Wallet].
func (p Purse) Networks() []uint64 { return []uint64{p.deployment.ChainID} }

func (p Purse) serves(chainID uint64) error {
	if chainID != p.deployment.ChainID {
		return fmt.Errorf("chain %d is not this one", chainID)
	}
	return nil
}

// Balance implements [payer.Wallet].
func (p Purse) Balance(_ context.Context, chainID uint64, token, owner evm.Address) (money.Amount, error) {
	return p.Wallet(owner, token), p.serves(chainID)
}

// Allowance implements [payer.Wallet].
func (p Purse) Allowance(_ context.Context, chainID uint64, token, owner evm.Address) (money.Amount, error) {
	return p.at(evm.Hash{}).allowed[allowance{token, owner, exact.Permit2Address}], p.serves(chainID)
}

// PermitNonce implements [payer.Wallet]: the tokens here take no permits.
func (p Purse) PermitNonce(_ context.Context, _ uint64, token, _ evm.Address) (money.Amount, error) {
	return money.Amount{}, fmt.Errorf("token %s takes no permits", token)
}

// Used implements [payer.Wallet].
func (p Purse) Used(_ context.Context, a exact.Authorization) (bool, time.Time, error) {
	head := p.Head()
	_, _, _, used := p.Carried(a)
	return used, time.Unix(int64(head.Time), 0), p.serves(a.ChainID)
}

// Moved implements [payer.Wallet].
func (p Purse) Moved(ctx context.Context, chainID uint64, tx evm.Hash, token, from, to evm.Address) (sum money.Amount, err error) {
	r, err := p.Node().Receipt(ctx, tx)
	switch {
	case err != nil:
		return sum, err
	case r == nil || !r.OK:
		return sum, fmt.Errorf("transaction %s is not on the chain, or failed", tx.Short())
	}
	for _, l := range r.Logs {
		if l.Address != token || len(l.Topics) != 3 || l.Topics[0] != topicTransfer || l.Topics[1] != evm.Hash(from.Word()) || l.Topics[2] != evm.Hash(to.Word()) {
			continue
		}
		amount, err := money.AmountFromBytes(l.Data)
		if err != nil {
			return sum, err
		}
		sum, _ = sum.Add(amount) // no more than was minted
	}
	return sum, p.serves(chainID)
}
