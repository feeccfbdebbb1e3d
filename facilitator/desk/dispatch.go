package desk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// unit is what one transaction is to carry.
type unit []Settlement

// dispatch hands what is due to lanes.
func (p *pass) dispatch(ctx context.Context) error {
	p.handed = make(map[Lane]bool)
	queued := p.list(Queued)
	p.mu.Lock()
	wanted := len(queued) > 0 || p.poor != nil
	p.mu.Unlock()
	if !wanted {
		return nil
	}
	broke := p.purses(ctx)                        // what expires ends all the same
	busy := make(map[evm.Address]map[string]bool) // calls in flight of each lane
	for _, s := range p.list(Sent) {
		if busy[s.From] == nil {
			busy[s.From] = make(map[string]bool)
		}
		busy[s.From][s.Call] = true
	}
	failed := []error{broke}
	var company unit
	waiting, due := 0, 0
	for _, s := range queued {
		switch {
		case uint64(p.now.Unix())+2 >= s.ValidBefore: // no block comes in time
			if err := p.refused(ctx, s, "authorization is expired", nil); err != nil {
				failed = append(failed, err)
			}
		case p.c.Batch && s.Shared && !s.Alone:
			company = append(company, s)
			if waiting++; !s.Due.After(p.now) {
				due++
			}
		case s.Due.After(p.now):
		default:
			lane := p.pick(busy, s.Lane, true)
			if lane == nil {
				continue
			}
			if err := p.sendAlone(ctx, lane, s, busy); err != nil {
				failed = append(failed, fmt.Errorf("settlement %s: %w", s.ID.Short(), err))
			}
		}
	}
	for len(company) > 0 && (due > 0 || len(company) >= p.c.BatchMax) {
		lane := p.pick(busy, evm.Address{}, false)
		if lane == nil {
			break // they wait together, and share the next one
		}
		n := min(len(company), p.c.BatchMax)
		group := company[:n:n]
		company, due = company[n:], max(0, due-n)
		if err := p.sendTogether(ctx, lane, group, busy, len(company) > 0); err != nil {
			failed = append(failed, err)
			break
		}
	}
	return errors.Join(failed...)
}

// pick returns the lane with the fewest calls in flight that may take one more, or nil. What could have shared a
// transaction waits until a lane is idle or has not been given a call for the time of a block, unless the last one was
// full.
func (p *pass) pick(busy map[evm.Address]map[string]bool, only evm.Address, alone bool) (best Lane) {
	for _, lane := range p.c.Lanes {
		address := lane.Address()
		inFlight := len(busy[address])
		last := p.last[address]
		_, pays := p.purse[address]
		switch {
		case !pays:
			continue
		case !only.IsZero() && address != only, inFlight >= p.c.InFlight:
			continue
		case !alone && inFlight > 0 && !last.full && p.now.Sub(last.at) < p.c.BlockTime:
			continue
		}
		if best == nil || inFlight < len(busy[best.Address()]) {
			best = lane
		}
	}
	return best
}

// refusal returns what a contract said when it refused a call, and false for any other error.
func refusal(err error) (string, bool) {
	var refused interface{ RevertReason() string }
	if errors.As(err, &refused) {
		return refused.RevertReason(), true
	}
	return "", false
}

// sendAlone hands a settlement's next call to a lane, if the chain would take it.
func (p *pass) sendAlone(ctx context.Context, lane Lane, s Settlement, busy map[evm.Address]map[string]bool) error {
	call := evm.Call{From: lane.Address(), To: s.To, Data: s.Data}
	gasMax := s.GasMax
	if s.Stage < len(s.Steps) {
		step := s.Steps[s.Stage]
		if len(step.Raw) > 0 {
			return p.relay(ctx, lane, s, step)
		}
		call.To, call.Data, call.Value, gasMax = step.To, step.Data, step.Value.Word(), step.Gas
	}
	gas, err := p.c.Chain.Estimate(ctx, call)
	if said, ok := refusal(err); ok {
		return p.refused(ctx, s, said, nil)
	}
	if most := p.gasMax(); gasMax == 0 || gasMax > most {
		gasMax = most
	}
	switch {
	case errors.Is(err, evm.ErrTooMuchGas):
		return p.tooDear(ctx, s, err.Error())
	case err != nil:
		return err
	case gas > gasMax:
		return p.tooDear(ctx, s, fmt.Sprintf("it needs %d gas, at most %d are paid for", gas, gasMax))
	}
	if s.Shared {
		p.learn(unit{s}, gas)
	}
	call.GasLimit = min(gas+gas/4, gasMax)
	return p.hand(ctx, lane, call, unit{s}, busy, false)
}

// tooDear ends a settlement that needs more gas than is paid for.
func (p *pass) tooDear(ctx context.Context, s Settlement, said string) error {
	s.State, s.Code, s.Reason = Failed, "gas_too_high", said
	return p.save(ctx, []Settlement{s}, nil, p.now)
}

// sendTogether hands a transaction to a lane that carries the settlements which the chain would take. The others go
// alone from then on, where it is found out what is wrong with them.
func (p *pass) sendTogether(ctx context.Context, lane Lane, group unit, busy map[evm.Address]map[string]bool, full bool) error {
	if len(group) == 1 {
		return p.sendAlone(ctx, lane, group[0], busy)
	}
	call := evm.Call{From: lane.Address(), To: Multicall3, Data: together(group, true)}
	if gas, ok := p.known(group); ok {
		// All of them under somewhat less gas than they will have: then nothing needs to be estimated, which takes a node
		// many times as long as running them once.
		probe := call
		probe.GasLimit = gas + gas/8
		answer, err := p.c.Chain.Simulate(ctx, probe)
		if _, refused := refusal(err); err != nil && !refused {
			return err
		}
		if good, bad := outcomes(answer, len(group)); err == nil && bad == nil && !slices.Contains(good, false) {
			call.GasLimit = gas + gas/4
			return p.hand(ctx, lane, call, group, busy, full)
		}
	}
	answer, err := p.c.Chain.Simulate(ctx, call)
	if err != nil {
		if _, refused := refusal(err); refused { // too much at once, or one burns it all
			return p.halve(ctx, lane, group, busy, full)
		}
		return err
	}
	good, err := outcomes(answer, len(group))
	if err != nil {
		return err
	}
	var pass, alone unit
	for i, s := range group {
		if good[i] {
			pass = append(pass, s)
		} else {
			s.Alone = true
			alone = append(alone, s)
		}
	}
	if len(alone) > 0 {
		if err := p.save(ctx, alone, nil, p.now); err != nil {
			return err
		}
		for _, s := range alone {
			if one := p.pick(busy, evm.Address{}, true); one != nil {
				if err := p.sendAlone(ctx, one, s, busy); err != nil {
					return err
				}
			}
		}
	}
	if len(pass) < 2 {
		if len(pass) == 1 {
			return p.sendAlone(ctx, lane, pass[0], busy)
		}
		return nil
	}
	// With parts that may fail, the least gas with which the whole succeeds is that with which parts run dry: what is
	// estimated is the same transaction with parts that may not.
	call.Data = together(pass, false)
	gas, err := p.c.Chain.Estimate(ctx, call)
	_, refused := refusal(err)
	switch {
	case refused, errors.Is(err, evm.ErrTooMuchGas):
		return p.halve(ctx, lane, pass, busy, full)
	case err != nil:
		return err
	}
	if !p.fits(pass, gas) {
		return p.halve(ctx, lane, pass, busy, full)
	}
	p.learn(pass, gas)
	call.Data, call.GasLimit = together(pass, true), gas+gas/4
	return p.hand(ctx, lane, call, pass, busy, full)
}

// gasMax is the most that a transaction may be given: what the protocol and a block allow.
func (p *pass) gasMax() uint64 {
	if p.head.GasLimit == 0 {
		return batchGasMax
	}
	return min(batchGasMax, p.head.GasLimit)
}

// fits says whether a group's gas is paid for, and with a quarter to spare fits a transaction.
func (p *pass) fits(group unit, gas uint64) bool {
	var paid uint64
	for _, s := range group {
		paid += s.GasMax
	}
	return gas+gas/4 <= p.gasMax() && gas <= paid
}

// gasKind names calls that take about as much gas as each other.
type gasKind struct {
	to       evm.Address
	selector [4]byte
}

func kindOf(s Settlement) gasKind {
	k := gasKind{to: s.To}
	copy(k.selector[:], s.Data)
	return k
}

// learn remembers the most that a settlement of its kind took when it was estimated, its share of what a transaction costs
// in itself included: of a larger group that share is smaller.
func (p *pass) learn(group unit, gas uint64) {
	each := (gas + uint64(len(group)) - 1) / uint64(len(group))
	for _, s := range group {
		p.learned[kindOf(s)] = max(p.learned[kindOf(s)], each)
	}
}

// known returns what a group will take by what was learned, if that is known of each and fits a transaction.
func (p *pass) known(group unit) (gas uint64, ok bool) {
	for _, s := range group {
		each := p.learned[kindOf(s)]
		if each == 0 {
			return 0, false
		}
		gas += each
	}
	return gas, p.fits(group, gas)
}

// halve sends half of a group that does not fit a transaction. The other half shares a later one.
func (p *pass) halve(ctx context.Context, lane Lane, group unit, busy map[evm.Address]map[string]bool, full bool) error {
	return p.sendTogether(ctx, lane, group[:len(group)/2], busy, full || len(group) > 2)
}

// hand records that a call carries settlements, and asks for the call, in one write.
func (p *pass) hand(ctx context.Context, lane Lane, call evm.Call, group unit, busy map[evm.Address]map[string]bool, full bool) error {
	if err := p.afford(lane, call); err != nil {
		return err
	}
	var name []byte
	for _, s := range group {
		tries := evm.WordUint64(uint64(s.Tries))
		name = append(append(name, s.ID[:]...), tries[:]...)
	}
	call.ID = fmt.Sprintf("settle/%d/%s", p.c.ChainID, strings.TrimPrefix(evm.Keccak256(name).String(), "0x"))
	carried := make([]Settlement, len(group))
	for i, s := range group {
		s.State, s.Call, s.From = Sent, call.ID, lane.Address()
		s.Tries++
		if err := s.Check(); err != nil {
			return fmt.Errorf("settlement %s: %w", s.ID.Short(), err)
		}
		carried[i] = s
	}
	if err := p.c.Book.Send(ctx, p.c.ChainID, call, carried); err != nil {
		return err
	}
	p.carry(carried)
	p.handed[lane] = true
	p.last[lane.Address()] = dispatch{p.now, full}
	if busy[lane.Address()] == nil {
		busy[lane.Address()] = make(map[string]bool)
	}
	busy[lane.Address()][call.ID] = true
	p.c.Log.Debug("settlements handed to a lane", "lane", lane.Address(), "call", call.ID, "settlements", len(group), "gas", call.GasLimit)
	return nil
}

// purses asks what gas costs and which lanes can pay for it. A lane that cannot is handed nothing: a node would not take its
// transaction, and nobody would know how the settlement ends until it did.
func (p *pass) purses(ctx context.Context) error {
	fee, err := p.c.Chain.FeeNow(ctx)
	if err != nil {
		return err
	}
	p.fee, p.purse = max(fee, 1), make(map[evm.Address]money.Amount)
	var poor error
	for _, lane := range p.c.Lanes {
		has, err := p.c.Chain.Balance(ctx, lane.Address())
		if err != nil {
			return err
		}
		if need := p.price(purseGas); has.Less(need) {
			poor = errors.Join(poor, fmt.Errorf("lane %s has %s wei for gas, and needs %s", lane.Address(), has, need))
			continue
		}
		p.purse[lane.Address()] = has
	}
	if len(p.purse) > 0 {
		if poor != nil {
			p.c.Log.Debug("a lane is out of coin", "error", poor)
		}
		poor = nil
	}
	p.mu.Lock()
	p.poor = poor
	p.mu.Unlock()
	return poor
}

// purseGas is what a lane must be able to pay for before it is handed anything.
const purseGas = 300_000

// price is what a lane needs for gas: it leaves room for the base fee to double.
func (p *pass) price(gas uint64) money.Amount {
	wei, _ := money.Units(gas).Mul(money.Units(p.fee)) // two of 64 bits fit, and twice of that
	wei, _ = wei.Mul(money.Units(2))
	return wei
}

// afford takes what a call may cost from a lane's purse.
func (p *pass) afford(lane Lane, call evm.Call) error {
	need := p.price(call.GasLimit)
	if value, err := money.AmountFromBytes(call.Value[:]); err == nil {
		if sum, ok := need.Add(value); ok {
			need = sum
		}
	}
	left, ok := p.purse[lane.Address()].Sub(need)
	if !ok {
		return fmt.Errorf("lane %s has %s wei, and needs %s", lane.Address(), p.purse[lane.Address()], need)
	}
	p.purse[lane.Address()] = left
	return nil
}

// carry makes memory agree with what was sent.
func (p *pass) carry(list []Settlement) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range list {
		p.put(s)
	}
	p.moves++
}

// relayed returns the step of a settlement that somebody else's transaction is.
func relayed(s Settlement) (Step, bool) {
	if s.Stage < len(s.Steps) && len(s.Steps[s.Stage].Raw) > 0 {
		return s.Steps[s.Stage], true
	}
	return Step{}, false
}

// relay records that somebody else's transaction is on its way, and gives it to the node.
func (p *pass) relay(ctx context.Context, lane Lane, s Settlement, step Step) error {
	s.State, s.From = Sent, lane.Address()
	s.Call = "relay/" + strings.TrimPrefix(evm.Keccak256(step.Raw).String(), "0x")
	s.Tries++
	if err := p.save(ctx, []Settlement{s}, nil, p.now); err != nil {
		return err
	}
	return p.c.Chain.Relay(ctx, step.Raw)
}

// followRelayed looks for somebody else's transaction, and gives it to the node once more while no block holds it.
func (p *pass) followRelayed(ctx context.Context, s Settlement, step Step) error {
	receipt, err := p.c.Chain.Receipt(ctx, evm.Keccak256(step.Raw))
	switch {
	case err != nil:
		return err
	case receipt == nil && uint64(p.now.Unix()) >= s.ValidBefore:
		s.State, s.Code, s.Reason = Failed, step.Code, "its approval was not mined in time"
		return p.save(ctx, []Settlement{s}, nil, p.now)
	case receipt == nil:
		return p.c.Chain.Relay(ctx, step.Raw)
	case !receipt.OK:
		s.State, s.Code, s.Reason = Failed, step.Code, fmt.Sprintf("its approval failed in block %d", receipt.BlockNumber)
		return p.save(ctx, []Settlement{s}, nil, p.now)
	}
	s.Stage++
	return p.save(ctx, []Settlement{again(s, false)}, nil, p.now)
}

// plainly reads the words of common tokens: Circle's FiatToken, OpenZeppelin's ERC-20 and the test dollar.
func plainly(c codes, said string) string {
	words := strings.ToLower(said)
	for _, known := range []struct{ words, code string }{
		{"used or canceled", c.used}, // FiatTokenV2
		{"usedorcanceled", c.used},
		{"invalidnonce", c.used}, // Permit2
		{"expired", c.expired},
		{"not yet valid", c.early},
		{"notyetvalid", c.early},
		{"exceeds balance", c.poor},
		{"insufficientbalance", c.poor},
		{"insufficient balance", c.poor},
		{"invalid signature", c.signature},
		{"invalidsignature", c.signature},
	} {
		if strings.Contains(words, known.words) {
			return known.code
		}
	}
	return ""
}
