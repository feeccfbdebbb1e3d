package sim

import (
	"errors"
	"fmt"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// kind names what a transaction asks the contracts for.
type kind string

const (
	opMint         kind = "mint"
	opDeposit      kind = "deposit"
	opRequest      kind = "request withdrawal"
	opCancel       kind = "cancel withdrawal"
	opFinish       kind = "finish withdrawal"
	opAutoSettle   kind = "set auto settle"
	opLimit        kind = "set limit"
	opSigner       kind = "set signer"
	opDepositBond  kind = "deposit bond"
	opSetSchedule  kind = "set schedule"
	opPost         kind = "post"
	opCommit       kind = "commit"
	opPay          kind = "pay"
	opMark         kind = "mark"
	opClaim        kind = "claim"
	opClaimToVault kind = "claim to vault"
	opFinalize     kind = "finalize"
	opRelease      kind = "release"
	opVoid         kind = "void"
	opCall         kind = "call"
	opValidate     kind = "validate"
)

// op is a call of a contract. Its JSON is the data of the calls that a house asks for.
type op struct {
	Kind       kind               `json:"kind"`
	Account    evm.Address        `json:"account,omitzero"`
	Asset      evm.Address        `json:"asset,omitzero"`
	Amount     money.Amount       `json:"amount,omitzero"`
	On         bool               `json:"on,omitzero"`
	Start      uint64             `json:"start,omitzero"`
	Cycle      evm.Hash           `json:"cycle,omitzero"`
	Generation uint64             `json:"generation,omitzero"`
	Chunk      uint64             `json:"chunk,omitzero"`
	Height     uint8              `json:"height,omitzero"`
	Positions  []byte             `json:"positions,omitempty"`
	Root       evm.Hash           `json:"root,omitzero"`
	Deadline   uint64             `json:"deadline,omitzero"`
	Proof      []evm.Hash         `json:"proof,omitempty"`
	Schedule   *clearing.Schedule `json:"schedule,omitempty"`
	Data       []byte             `json:"data,omitempty"` // of a call of Account
	Answer     *guarantee.Answer  `json:"answer,omitempty"`
}

// Mint gives an owner tokens in its wallet.
func (c *Chain) Mint(owner, asset evm.Address, amount money.Amount) evm.Hash {
	return c.submit(owner, op{Kind: opMint, Asset: asset, Amount: amount})
}

// Deposit moves tokens from an owner's wallet to its collateral.
func (c *Chain) Deposit(owner, asset evm.Address, amount money.Amount) evm.Hash {
	return c.submit(owner, op{Kind: opDeposit, Asset: asset, Amount: amount})
}

// RequestWithdrawal asks for collateral to be paid out after the delay.
func (c *Chain) RequestWithdrawal(owner, asset evm.Address, amount money.Amount) evm.Hash {
	return c.submit(owner, op{Kind: opRequest, Asset: asset, Amount: amount})
}

// CancelWithdrawal takes a request back.
func (c *Chain) CancelWithdrawal(owner, asset evm.Address) evm.Hash {
	return c.submit(owner, op{Kind: opCancel, Asset: asset})
}

// FinalizeWithdrawal pays a request out.
func (c *Chain) FinalizeWithdrawal(owner, asset evm.Address) evm.Hash {
	return c.submit(owner, op{Kind: opFinish, Asset: asset})
}

// SetAutoSettle says whether being settled from collateral is no default.
func (c *Chain) SetAutoSettle(owner evm.Address, on bool) evm.Hash {
	return c.submit(owner, op{Kind: opAutoSettle, On: on})
}

// SetLimit caps what one cycle may take of an owner; on is false for no limit.
func (c *Chain) SetLimit(owner, asset evm.Address, limit money.Amount, on bool) evm.Hash {
	return c.submit(owner, op{Kind: opLimit, Asset: asset, Amount: limit, On: on})
}

// SetSigner names a key that signs an owner's notes, or removes it after the delay.
func (c *Chain) SetSigner(owner, key evm.Address, on bool) evm.Hash {
	return c.submit(owner, op{Kind: opSigner, Account: key, On: on})
}

// DepositBond moves tokens from the operator's wallet to its bond.
func (c *Chain) DepositBond(asset evm.Address, amount money.Amount) evm.Hash {
	return c.submit(c.operator, op{Kind: opDepositBond, Asset: asset, Amount: amount})
}

// SetSchedule announces an asset's next schedule.
func (c *Chain) SetSchedule(s clearing.Schedule) evm.Hash {
	return c.submit(c.operator, op{Kind: opSetSchedule, Asset: s.Asset, Schedule: &s})
}

// Pay pays a debtor's net debit from its wallet.
func (c *Chain) Pay(debtor evm.Address, cycle evm.Hash, amount money.Amount, proof []evm.Hash) evm.Hash {
	return c.submit(debtor, op{Kind: opPay, Cycle: cycle, Amount: amount, Proof: proof})
}

// Claim pays a creditor's net credit to its wallet.
func (c *Chain) Claim(creditor evm.Address, cycle evm.Hash, amount money.Amount, proof []evm.Hash) evm.Hash {
	return c.submit(creditor, op{Kind: opClaim, Account: creditor, Cycle: cycle, Amount: amount, Proof: proof})
}

// ClaimToVault makes a creditor's net credit collateral.
func (c *Chain) ClaimToVault(creditor evm.Address, cycle evm.Hash, amount money.Amount, proof []evm.Hash) evm.Hash {
	return c.submit(creditor, op{Kind: opClaimToVault, Account: creditor, Cycle: cycle, Amount: amount, Proof: proof})
}

// Void voids a sealed cycle, as a proven dispute does.
func (c *Chain) Void(cycle evm.Hash) evm.Hash {
	return c.submit(evm.Address{}, op{Kind: opVoid, Cycle: cycle})
}

// execution is a transaction being executed on its own copy of the state.
type execution struct {
	*Chain
	*state
	now    uint64
	from   evm.Address
	tx     evm.Hash
	events []clearing.Event
	logs   []evm.Log
}

func (x *execution) emit(e clearing.Event) { x.events = append(x.events, e) }

var (
	errAmount     = errors.New("amount is zero or too large")
	errAvailable  = errors.New("not enough available")
	errNoRequest  = errors.New("no withdrawal was requested")
	errTooEarly   = errors.New("too early")
	errTooLate    = errors.New("too late")
	errCaller     = errors.New("caller is not the operator")
	errSchedule   = errors.New("no such schedule")
	errStatus     = errors.New("cycle's status does not allow it")
	errOutOfTurn  = errors.New("chunk out of turn")
	errMalformed  = errors.New("malformed positions")
	errUnfunded   = errors.New("debt is not funded")
	errTotals     = errors.New("totals differ")
	errProof      = errors.New("proof does not lead to the root")
	errAlready    = errors.New("done already")
	errUnknown    = errors.New("unknown chunk")
	errByChoice   = errors.New("debtor chose to be settled from collateral")
	errLimitWaits = errors.New("a lower limit is pending")
)

func (x *execution) do(o op) error {
	who := ownerAsset{x.from, o.Asset}
	switch o.Kind {
	case opMint:
		x.minted[o.Asset], _ = x.minted[o.Asset].Add(o.Amount)
		x.wallets[who], _ = x.wallets[who].Add(o.Amount)
		return nil
	case opDeposit:
		if o.Amount.IsZero() {
			return errAmount
		}
		if err := x.take(who, o.Amount); err != nil {
			return err
		}
		return x.deposit(who, o.Amount)
	case opRequest, opCancel, opFinish:
		return x.withdrawal(who, o)
	case opAutoSettle:
		x.auto[x.from] = o.On
		x.emit(clearing.Event{Kind: clearing.AutoSettleSet, Account: x.from, On: o.On})
		return nil
	case opLimit:
		return x.limit(who, o)
	case opSigner:
		return x.signer(o)
	case opDepositBond:
		if err := x.take(who, o.Amount); err != nil {
			return err
		}
		x.bonds[o.Asset], _ = x.bonds[o.Asset].Add(o.Amount)
		x.emit(clearing.Event{Kind: clearing.BondChanged, Asset: o.Asset, Amount: o.Amount, On: true})
		return nil
	case opSetSchedule:
		return x.schedule(*o.Schedule)
	case opVoid:
		return x.void(o.Cycle)
	case opValidate:
		a := *o.Answer
		a.Validator, a.LastUpdate = x.from, x.now
		x.answers[o.Root] = a
		return nil
	case opCall:
		_, err := x.invoke(x.from, o.Account, o.Data)
		return err
	case opPost:
		return x.post(o)
	case opCommit:
		return x.commit(o)
	case opFinalize:
		return x.finalize(o.Cycle)
	case opRelease:
		return x.release(o)
	case opPay, opMark, opClaim, opClaimToVault:
		return x.participate(o)
	}
	return fmt.Errorf("no such call: %q", o.Kind)
}

// take moves tokens from a wallet into the vault.
func (x *execution) take(who ownerAsset, amount money.Amount) error {
	rest, ok := x.wallets[who].Sub(amount)
	if !ok {
		return errAvailable
	}
	x.wallets[who] = rest
	x.held[who.asset], _ = x.held[who.asset].Add(amount)
	return nil
}

// give moves tokens from the vault to a wallet.
func (x *execution) give(who ownerAsset, amount money.Amount) error {
	rest, ok := x.held[who.asset].Sub(amount)
	if !ok {
		return errAvailable
	}
	x.held[who.asset] = rest
	x.wallets[who], _ = x.wallets[who].Add(amount)
	return nil
}

func (x *execution) increase(who ownerAsset, amount money.Amount) error {
	a := x.accounts[who]
	sum, ok := a.collateral.Add(amount)
	if !ok || amountMax.Less(sum) {
		return errAmount
	}
	a.collateral = sum
	x.accounts[who] = a
	return nil
}

// deposit credits tokens that the vault holds already.
func (x *execution) deposit(who ownerAsset, amount money.Amount) error {
	x.emit(clearing.Event{Kind: clearing.Deposited, Account: who.owner, Asset: who.asset, Amount: amount})
	return x.increase(who, amount)
}

func (x *execution) withdrawal(who ownerAsset, o op) error {
	a := x.accounts[who]
	if o.Kind == opRequest {
		if o.Amount.IsZero() {
			return errAmount
		}
		if a.collateral.Less(o.Amount) {
			return errAvailable
		}
		a.requested, a.requestedAt = o.Amount, x.now
		x.accounts[who] = a
		x.emit(clearing.Event{Kind: clearing.WithdrawalRequested, Account: who.owner, Asset: who.asset, Amount: o.Amount, Time: x.now})
		return nil
	}
	if a.requestedAt == 0 {
		return errNoRequest
	}
	requested, at := a.requested, a.requestedAt
	a.requested, a.requestedAt = money.Amount{}, 0
	if o.Kind == opCancel {
		x.accounts[who] = a
		x.emit(clearing.Event{Kind: clearing.WithdrawalCanceled, Account: who.owner, Asset: who.asset})
		return nil
	}
	if x.now < at+x.delay {
		return errTooEarly
	}
	amount := money.Min(requested, a.collateral)
	a.collateral, _ = a.collateral.Sub(amount)
	x.accounts[who] = a
	x.emit(clearing.Event{Kind: clearing.Withdrawn, Account: who.owner, Asset: who.asset, Amount: amount})
	return x.give(who, amount)
}

// limit follows setLimitPerCycle: a higher limit acts at once, a lower one from the next cycle to start.
func (x *execution) limit(who ownerAsset, o op) error {
	limit := o.Amount
	if !o.On {
		limit = amountMax
	}
	gap, ok := amountMax.Sub(limit)
	if !ok {
		return errAmount
	}
	a := x.accounts[who]
	said := func() {
		e := clearing.Event{Kind: clearing.LimitSet, Account: who.owner, Asset: who.asset, On: !gap.IsZero()}
		if e.On {
			e.Amount = limit
		}
		x.accounts[who] = a
		x.emit(e)
	}
	if a.pendingFrom != 0 && x.now >= a.pendingFrom {
		if x.now <= x.lastPost(who.asset, a.pendingFrom) {
			if a.pendingGap.Less(gap) {
				return errLimitWaits
			}
			a.pendingGap = gap
			said()
			return nil
		}
		a.gap = a.pendingGap
	}
	a.pendingGap, a.pendingFrom = money.Amount{}, 0
	if a.gap.Less(gap) {
		a.pendingFrom = x.nextStart(who.asset)
	}
	if a.pendingFrom == 0 {
		a.gap = gap
	} else {
		a.pendingGap = gap
	}
	said()
	return nil
}

// limitOf returns what a cycle that starts at start may take.
func (a account) limitOf(start uint64) money.Amount {
	gap := a.gap
	if a.pendingFrom != 0 && start >= a.pendingFrom {
		gap = a.pendingGap
	}
	limit, _ := amountMax.Sub(gap)
	return limit
}

func (x *execution) schedule(next clearing.Schedule) error {
	list := x.schedules[next.Asset]
	longest := 4*next.Length + next.Cutoff + next.Post + 2*next.Challenge + next.Repost + next.Redeem + x.delay/8
	if x.from != x.operator {
		return errCaller
	}
	if next.Length == 0 || next.Post == 0 || next.Challenge == 0 || next.Repost == 0 || next.Redeem == 0 || longest > x.delay {
		return fmt.Errorf("%w: it takes %d seconds, W is %d", errSchedule, longest, x.delay)
	}
	if n := len(list); n > 0 {
		present := list[n-1]
		if next.From <= x.now+x.delay || present.From > x.now || (next.From-present.From)%present.Length != 0 {
			return errSchedule
		}
	}
	x.schedules[next.Asset] = append(list[:len(list):len(list)], next)
	x.emit(clearing.Event{Kind: clearing.ScheduleSet, Asset: next.Asset, Schedule: &next})
	return nil
}

// scheduleOf returns the schedule of the cycle that starts at start, which must be one of its boundaries.
func (s *state) scheduleOf(asset evm.Address, start uint64) (clearing.Schedule, error) {
	list := s.schedules[asset]
	for i := len(list) - 1; i >= 0; i-- {
		if start >= list[i].From {
			if (start-list[i].From)%list[i].Length != 0 {
				break
			}
			return list[i], nil
		}
	}
	return clearing.Schedule{}, errSchedule
}

// nextStart returns the start of the next cycle after now.
func (x *execution) nextStart(asset evm.Address) uint64 {
	list := x.schedules[asset]
	if len(list) == 0 {
		return 0
	}
	i := len(list) - 1
	for i > 0 && list[i].From > x.now {
		i--
	}
	s := list[i]
	if s.From > x.now {
		return s.From
	}
	return s.From + ((x.now-s.From)/s.Length+1)*s.Length
}

// lastPost returns until when a cycle that started before start may still be posted.
func (x *execution) lastPost(asset evm.Address, start uint64) uint64 {
	list := x.schedules[asset]
	if len(list) == 0 {
		return 0
	}
	i := len(list) - 1
	for i > 0 && list[i].From >= start {
		i--
	}
	s := list[i]
	return start + s.Cutoff + s.Post + s.Challenge + s.Repost + x.delay/8
}

// signer follows setSigner: a key counts at once, and its removal after the delay.
func (x *execution) signer(o op) error {
	until := uint64(clearing.Forever)
	who := ownerKey{x.from, o.Account}
	if !o.On {
		if until = x.now + x.delay; x.signers[who] <= until {
			return errUnknown
		}
	}
	x.signers[who] = until
	x.emit(clearing.Event{Kind: clearing.SignerSet, Account: x.from, Asset: o.Account, Time: until})
	return nil
}
