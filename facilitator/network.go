package facilitator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator/desk"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// Node is what is asked about a chain; [github.com/farthing402/farthing/evm/chain.Client] is one.
type Node interface {
	desk.Chain
	exact.Chain
}

// NetworkConfig says how payments on one chain are taken. Chain, Node, Book and Lanes must be set.
type NetworkConfig struct {
	Chain network.Chain // its tokens are those that are offered
	Node  Node
	Book  desk.Book
	Lanes []desk.Lane
	Depth uint64 // blocks on top of a settlement's block before it counts; the lanes' own

	// Factories may deploy contract accounts that sign before they exist (ERC-6492), at the lanes' cost.
	Factories []evm.Address

	// SponsorMax is the most, in wei, that a payer is given for the gas of its own approval of Permit2, which is then broadcast
	// for it (erc20ApprovalGasSponsoring). Zero: such approvals are not taken. The payer keeps what its transaction leaves.
	SponsorMax money.Amount

	// Offline verifies without asking the chain: no contract accounts, no balances, no nonces. Settling still does.
	Offline bool

	BatchMax    int          // settlements that share a transaction; 0: desk.DefaultBatchMax
	GasPerPayer uint64       // a day; 0: no limit
	SpendMax    money.Amount // wei a day, by all lanes; zero: no limit
	Lookback    uint64       // blocks searched for somebody else's transaction; 0: desk.DefaultLookback

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: silence
}

// Network is a chain on which payments are verified and settled. Make one with [Open].
type Network struct {
	c        NetworkConfig
	desk     *desk.Desk
	verifier *exact.Verifier
	offline  *exact.Verifier // of verify, with Offline

	// Refused are the tokens of the registry that are not offered, with the reason.
	Refused []Refused

	tokens  []network.Token // offered
	permit2 bool            // exact through Permit2 is
	upto    bool            // upto is
	batch   bool
	pruned  time.Time // only step

	mu     sync.Mutex
	asked  map[evm.Hash]asked // guarded by mu: what open settlements were asked with, for saying why one failed
	silent error              // guarded by mu: why the last pass failed
	ended  func(desk.Settlement)
}

// Refused is a token that is not offered.
type Refused struct {
	Token  network.Token
	Reason string
}

type asked struct {
	a exact.Authorization
	r x402.Requirements
}

// stepGas is the most that a step before a settlement may use: deploying a contract account takes some hundred thousand.
const stepGas = 2_000_000

// Open compares a network with its chain and returns it. A node of another chain is an error (chain_mismatch); so is one
// on which no token can be offered. A token that answers differently than is written down is left out: see
// [Network.Refused].
func Open(ctx context.Context, c NetworkConfig) (*Network, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if id := c.Node.ChainID(); id != c.Chain.ID {
		return nil, x402.Errorf("chain_mismatch", "the node of %s serves chain %d", c.Chain, id)
	}
	n := &Network{c: c, asked: make(map[evm.Hash]asked)}
	for _, t := range c.Chain.Tokens {
		err := exact.ProbeToken(ctx, c.Node, t)
		var differs *x402.Error
		switch {
		case errors.As(err, &differs):
			n.Refused = append(n.Refused, Refused{t, differs.Message})
		case err != nil:
			return nil, fmt.Errorf("compare tokens of %s: %w", c.Chain, err)
		default:
			n.tokens = append(n.tokens, t)
		}
	}
	if len(n.tokens) == 0 {
		why := "none is known"
		if len(n.Refused) > 0 {
			why = n.Refused[0].Reason
		}
		return nil, x402.Errorf("chain_mismatch", "no token can be offered on %s: %s", c.Chain, why)
	}
	var failed error
	there := func(address evm.Address) bool {
		code, err := c.Node.Code(ctx, address)
		if err != nil {
			failed = fmt.Errorf("code of %s on %s: %w", address, c.Chain, err)
		}
		return len(code) > 0
	}
	n.batch = there(exact.Multicall3)
	if there(exact.Permit2Address) {
		n.permit2 = n.proxy(ctx, exact.ExactProxy) && there(exact.ExactProxy)
		n.upto = n.proxy(ctx, exact.UptoProxy) && there(exact.UptoProxy)
	}
	if failed != nil {
		return nil, failed
	}
	tokens := make([]evm.Address, len(n.tokens))
	for i, t := range n.tokens {
		tokens[i] = t.Address
	}
	var err error
	n.desk, err = desk.New(desk.Config{
		ChainID: c.Chain.ID, Book: c.Book, Chain: c.Node, Lanes: c.Lanes, BlockTime: c.Chain.BlockTime, Depth: c.Depth,
		Batch: n.batch, BatchMax: c.BatchMax, Lookback: c.Lookback, Tokens: tokens, Selectors: selectors,
		GasPerPayer: c.GasPerPayer, SpendMax: c.SpendMax, Explain: n.explain, Ended: n.end, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	n.verifier = &exact.Verifier{Chain: c.Node, Factories: c.Factories, Signers: n.desk.Lanes(), Approvals: !c.SponsorMax.IsZero(), Simulate: true}
	if c.Offline {
		n.offline = &exact.Verifier{Signers: n.desk.Lanes()}
	}
	return n, n.desk.Load(ctx, c.Now())
}

// proxy reports whether a contract says that it is a proxy of Permit2.
func (n *Network) proxy(ctx context.Context, address evm.Address) bool {
	selector := evm.Selector("PERMIT2()")
	answer, err := n.c.Node.Read(ctx, evm.Address{}, address, selector[:])
	permit2, ok := evm.ABI(answer).Address(0)
	return err == nil && ok && permit2 == exact.Permit2Address
}

// selectors are the calls that a lane sends.
var selectors = [][4]byte{
	evm.Selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"),
	evm.Selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"),
	evm.Selector("transferFrom(address,address,uint256)"),
	evm.Selector("settle(((address,uint256),uint256,uint256),address,(address,uint256),bytes)"),
	evm.Selector("settleWithPermit((uint256,uint256,bytes32,bytes32,uint8),((address,uint256),uint256,uint256),address,(address,uint256),bytes)"),
	evm.Selector("settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)"),
	evm.Selector("settleWithPermit((uint256,uint256,bytes32,bytes32,uint8),((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)"),
}

// Chain returns the network's chain with the tokens that are offered.
func (n *Network) Chain() network.Chain {
	c := n.c.Chain
	c.Tokens = n.tokens
	return c
}

// Ways returns the schemes that are offered, for people.
func (n *Network) Ways() (ways []string) {
	ways = append(ways, exact.Scheme)
	if n.upto {
		ways = append(ways, exact.UptoScheme)
	}
	return append(ways, exact.LegacyScheme)
}

// Batches reports whether settlements share transactions.
func (n *Network) Batches() bool { return n.batch }

// Desk returns the network's gas desk.
func (n *Network) Desk() *desk.Desk { return n.desk }

// token reports whether a token is offered; the error says why not.
func (n *Network) token(address evm.Address) error {
	for _, t := range n.tokens {
		if t.Address == address {
			return nil
		}
	}
	for _, r := range n.Refused {
		if r.Token.Address == address {
			return x402.Errorf("asset_not_served", "%s", r.Reason)
		}
	}
	return x402.Errorf("asset_not_served", "token %s is not settled on %s", address, n.c.Chain)
}

// offered refuses a payment by contracts that are not there, or in a token that is not offered.
func (n *Network) offered(a exact.Authorization) error {
	switch {
	case a.Method == exact.Permit2 && (a.Scheme == exact.UptoScheme && !n.upto || a.Scheme != exact.UptoScheme && !n.permit2):
		return x402.Errorf("permit2_proxy_not_deployed", "x402's contracts for Permit2 are not on %s", n.c.Chain)
	}
	return n.token(a.Asset)
}

// judge verifies an authorization. What is not offered is refused after what is wrong with the payment itself, and before
// anything is simulated.
func (n *Network) judge(ctx context.Context, v *exact.Verifier, a exact.Authorization, r x402.Requirements, simulate bool) error {
	if refused := n.offered(a); refused != nil {
		if err := v.Judge(ctx, a, r, n.c.Now(), false); err != nil {
			return err
		}
		return refused
	}
	return v.Judge(ctx, a, r, n.c.Now(), simulate)
}

// draft is what the desk would be asked for, without the call.
func draft(a exact.Authorization, amount money.Amount) desk.Ask {
	ask := desk.Ask{
		ID: a.ID(), ChainID: a.ChainID, Scheme: a.Scheme, Asset: a.Asset, Payer: a.From, Payee: a.To, Amount: amount, Nonce: a.Nonce,
		ValidAfter: a.ValidAfter, ValidBefore: a.ValidBefore, Mark: desk.MarkNonce,
	}
	switch a.Method {
	case exact.Permit2:
		ask.Mark = desk.MarkData
	case exact.Legacy:
		ask.Mark, ask.Lane = desk.MarkOwn, a.Spender
	}
	if a.Scheme == exact.UptoScheme {
		ask.Lane = a.Facilitator
	}
	return ask
}

// ask is what the desk is asked for, and what has to be on the chain before.
func (n *Network) ask(a exact.Authorization, amount money.Amount) (desk.Ask, []exact.Step, error) {
	ask := draft(a, amount)
	if amount.IsZero() && a.Scheme == exact.UptoScheme {
		return ask, nil, nil // nothing is sent
	}
	m, err := n.verifier.Move(a, amount)
	if err != nil {
		return desk.Ask{}, nil, err
	}
	ask.To, ask.Data, ask.GasMax, ask.Lane = m.To, m.Data, m.GasMax, m.Sender
	ask.Shared = m.Shared && ask.Mark == desk.MarkNonce
	return ask, m.Before, nil
}

// steps returns what is lacking on the chain before a settlement.
func (n *Network) steps(ctx context.Context, before []exact.Step) (steps []desk.Step, err error) {
	for _, b := range before {
		needed, err := n.verifier.Needed(ctx, b)
		if err != nil {
			return nil, err
		}
		if !needed {
			continue
		}
		if b.Raw != nil {
			gift, err := n.gift(ctx, b)
			if err != nil {
				return nil, err
			}
			if !gift.IsZero() {
				steps = append(steps, desk.Step{To: b.Account, Value: gift, Gas: giftGas, Code: b.Failure})
			}
			steps = append(steps, desk.Step{Raw: b.Raw, Code: b.Failure})
		} else {
			steps = append(steps, desk.Step{To: b.To, Data: b.Data, Raw: b.Raw, Gas: stepGas, Code: b.Failure})
		}
	}
	return steps, nil
}

const (
	giftGas     = 60_000  // of giving a payer coin: an account with code may do something when it gets some
	approvalGas = 150_000 // that a payer's approval may ask for; the published clients ask for 70,000
)

// gift is what a payer lacks for the gas of its approval, in wei.
func (n *Network) gift(ctx context.Context, b exact.Step) (money.Amount, error) {
	tx, err := evm.ParseTransaction(b.Raw)
	if err != nil {
		return money.Amount{}, x402.Errorf("erc20_approval_tx_parse_failed", "approval: %w", err)
	}
	value, err := money.AmountFromBytes(tx.Value[:])
	if err != nil {
		return money.Amount{}, err
	}
	need, _ := money.Units(tx.Gas).Mul(money.Units(tx.FeeWei)) // two of 64 bits fit
	need, ok := need.Add(value)
	if !ok || tx.Gas > approvalGas || n.c.SponsorMax.Less(need) {
		return money.Amount{}, x402.Errorf(b.Failure, "its transaction may cost %s wei for %d gas; at most %s wei and %d gas are paid for", need, tx.Gas, n.c.SponsorMax, approvalGas)
	}
	has, err := n.c.Node.Balance(ctx, b.Account)
	if err != nil {
		return money.Amount{}, err
	}
	lacks, poor := need.Sub(has)
	if !poor {
		return money.Amount{}, nil
	}
	return lacks, nil
}

// remember keeps what a settlement was asked with while it is open.
func (n *Network) remember(id evm.Hash, a exact.Authorization, r x402.Requirements) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[id] = asked{a, r}
}

func (n *Network) forget(id evm.Hash) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.asked, id)
}

// explain asks the chain why a settlement is refused.
func (n *Network) explain(ctx context.Context, s desk.Settlement, said string) (code, reason string) {
	n.mu.Lock()
	q, ok := n.asked[s.ID]
	n.mu.Unlock()
	if !ok {
		return "", ""
	}
	var why *x402.Error
	if err := n.verifier.Judge(ctx, q.a, q.r, n.c.Now(), true); errors.As(err, &why) {
		return why.Code, why.Message
	}
	return "", ""
}

func (n *Network) end(s desk.Settlement) {
	if s.State.Final() {
		n.forget(s.ID)
	}
	n.mu.Lock()
	told := n.ended
	n.mu.Unlock()
	if told != nil {
		told(s)
	}
}

// pruneEvery is how often settlements of long ago are forgotten, a few at a time.
const pruneEvery = time.Minute

// step makes one pass of the desk. Trouble is logged when it begins and when it is over.
func (n *Network) step(ctx context.Context) {
	now := n.c.Now()
	err := n.desk.Step(ctx, now)
	if now.Sub(n.pruned) >= pruneEvery {
		n.pruned = now
		_, old := n.desk.Prune(ctx, now)
		err = errors.Join(err, old)
	}
	if ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	before := n.silent
	n.silent = err
	n.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		n.c.Log.Warn("settling is in trouble", "network", n.c.Chain.Name, "error", err)
	case err == nil && before != nil:
		n.c.Log.Info("settling goes on", "network", n.c.Chain.Name)
	}
}

// well returns why the last pass failed.
func (n *Network) well() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.silent
}
