package chain

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// clearingWorld is a deployment with a payer and a payee.
type clearingWorld struct {
	world
	Contracts
	reader       Reader
	start        uint64 // of the first cycle
	payer, payee *evm.PrivateKey
}

func newClearing(t *testing.T) *clearingWorld {
	w := newWorld(t)
	d := w.deployed()
	r := Reader{Client: w.client, Contracts: d.Contracts}
	list, err := r.Schedules(t.Context(), devchain.TestDollar)
	if err != nil || len(list) != 1 {
		t.Fatalf("schedules %v, %v", list, err)
	}
	return &clearingWorld{world: w, Contracts: d.Contracts, reader: r, start: list[0].FromStart, payer: key(1), payee: key(2)}
}

// at moves the clock to a moment and makes a block there.
func (c *clearingWorld) at(unix uint64) {
	c.Helper()
	if now := uint64(c.chain.Time().Unix()); unix > now+1 {
		if err := c.chain.AdvanceTime(time.Duration(unix-now-1) * time.Second); err != nil {
			c.Fatal(err)
		}
	}
	c.mine(1)
}

// events returns everything that the contracts have said.
func (c *clearingWorld) events() (events []Event) {
	c.Helper()
	for n := uint64(1); n <= c.chain.Height(); n++ {
		block, err := c.client.Block(c.Context(), n)
		if err != nil {
			c.Fatal(err)
		}
		logs, err := c.client.logsOf(c.Context(), block, c.Addresses())
		if err != nil {
			c.Fatal(err)
		}
		for _, l := range logs {
			event, err := c.Decode(l)
			if err != nil {
				c.Fatal(err)
			}
			events = append(events, event)
		}
	}
	return events
}

func (c *clearingWorld) said(want ...Event) {
	c.Helper()
	all := c.events()
	for _, event := range want {
		if !slices.ContainsFunc(all, func(e Event) bool { return reflect.DeepEqual(e, event) }) {
			var near []string
			for _, e := range all {
				if reflect.TypeOf(e) == reflect.TypeOf(event) {
					near = append(near, fmt.Sprintf("%+v", e))
				}
			}
			c.Errorf("no event %T%+v; there are\n%s", event, event, strings.Join(near, "\n"))
		}
	}
}

func (c *clearingWorld) hasCollateral(owner, asset evm.Address, want uint64) {
	c.Helper()
	got, err := c.reader.Collateral(c.Context(), owner, asset)
	if err != nil || got != money.Units(want) {
		c.Errorf("collateral of %v in %v: %v, %v; want %d", owner.Short(), asset.Short(), got, err, want)
	}
}

func TestDepositsAndWithdrawals(t *testing.T) {
	t.Parallel()
	c := newClearing(t)
	ctx, me, dollar, native := t.Context(), c.payer.Address(), devchain.TestDollar, evm.Address{}
	c.send(c.payer, Approve(dollar, c.Vault, money.Units(700)), c.DepositStablecoin(dollar, money.Units(500)), c.Deposit(money.Units(900)))
	c.hasCollateral(me, dollar, 500)
	c.hasCollateral(me, native, 900)
	if left, err := c.client.Allowance(ctx, dollar, me, c.Vault); err != nil || left != money.Units(200) {
		t.Errorf("allowance %v, %v", left, err)
	}

	a := Authorization{From: me, To: c.Vault, Value: money.Units(40), ValidBefore: 1 << 40, Nonce: evm.Hash{1}}
	name, version := evm.Keccak256([]byte("ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)")), "2"
	from, to, value, after, before := a.From.Word(), a.To.Word(), a.Value.Word(), evm.WordUint64(a.ValidAfter), evm.WordUint64(a.ValidBefore)
	digest := evm.TypedDigest(evm.Domain{Name: "Test Dollar", Version: version, ChainID: c.client.ChainID(), VerifyingContract: &dollar}.Separator(),
		evm.Keccak256(name[:], from[:], to[:], value[:], after[:], before[:], a.Nonce[:]))
	var err error
	if a.Signature, err = c.payer.Sign(ctx, digest); err != nil {
		t.Fatal(err)
	}
	c.send(key(5), c.DepositWithAuthorization(dollar, a))
	c.hasCollateral(me, dollar, 540)

	c.send(c.payer, c.RequestWithdrawal(dollar, money.Units(100)), c.RequestWithdrawal(native, money.Units(900)), c.CancelWithdrawal(native))
	request, err := c.reader.Withdrawal(ctx, me, dollar)
	if err != nil || request.Amount != money.Units(100) || request.When == 0 {
		t.Fatalf("request %+v, %v", request, err)
	}
	if none, err := c.reader.Withdrawal(ctx, me, native); err != nil || none != (Withdrawal{}) {
		t.Errorf("canceled request %+v, %v", none, err)
	}
	c.at(request.When + 60)
	c.send(c.payer, c.FinalizeWithdrawal(dollar))
	c.hasCollateral(me, dollar, 440)

	c.send(c.payer, c.SetAutoSettle(true), c.SetLimitPerCycle(dollar, money.Units(50)))
	if on, err := c.reader.AutoSettle(ctx, me); err != nil || !on {
		t.Errorf("auto settle %v, %v", on, err)
	}
	later := c.start + 1000*6
	if limit, err := c.reader.LimitPerCycle(ctx, me, dollar, later); err != nil || limit != money.Units(50) {
		t.Errorf("limit %v, %v", limit, err)
	}
	if limit, err := c.reader.LimitPerCycle(ctx, c.payee.Address(), dollar, later); err != nil || limit != NoLimit() {
		t.Errorf("limit of who set none %v, %v", limit, err)
	}
	c.said(
		Deposited{me, dollar, money.Units(500)}, Deposited{me, native, money.Units(900)}, Deposited{me, dollar, money.Units(40)},
		WithdrawalRequested{me, dollar, request.When, money.Units(100)}, WithdrawalCanceled{me, native}, Withdrawn{me, dollar, money.Units(100)},
		AutoSettleSet{me, true}, StablecoinAssetUpdated{dollar, true}, BondDeposited{dollar, money.Units(1000)},
		KeyRegistered{0, c.start}, OperatorReplaced{key(0).Address()},
	)
}

func position(who evm.Address, role byte, amount uint64) []byte {
	b := append(who[:], role)
	b = append(b, make([]byte, 8)...)
	b = binary.BigEndian.AppendUint64(b, amount)
	return append(b, make([]byte, 32)...)
}

func (c *clearingWorld) leaf(cycle evm.Hash, asset, who evm.Address, amount uint64, role uint64) evm.Hash {
	chain, house, a, p := evm.WordUint64(c.client.ChainID()), c.ClearingHouse.Word(), asset.Word(), who.Word()
	n, r := evm.WordUint64(amount), evm.WordUint64(role)
	return evm.Keccak256(chain[:], house[:], cycle[:], a[:], p[:], n[:], r[:])
}

// A cycle of one debtor and one creditor, from posting to collection, through every call that the roles need.
func TestACycleFromPostingToCollection(t *testing.T) {
	t.Parallel()
	c := newClearing(t)
	ctx, dollar, operator := t.Context(), devchain.TestDollar, key(0)
	payer, payee := c.payer.Address(), c.payee.Address()
	c.send(c.payer, Approve(dollar, c.Vault, NoLimit()), c.DepositStablecoin(dollar, money.Units(500)))

	var cycles []evm.Hash
	const debt = 120
	for k := range uint64(3) {
		start := c.start + 6*k
		cycle := guarantee.CycleID(dollar, start)
		cycles = append(cycles, cycle)
		c.at(start + 7)
		if phase, err := c.reader.Phase(ctx, dollar, start); err != nil || phase != PhaseNone {
			t.Fatalf("phase %v, %v", phase, err)
		}
		chunk := slices.Concat(position(payer, 0, debt), position(payee, 1, debt))
		if bytes.Compare(payer[:], payee[:]) > 0 {
			chunk = slices.Concat(position(payee, 1, debt), position(payer, 0, debt))
		}
		c.send(operator, c.PostPositions(dollar, start, 0, 0, 10, chunk))
		debtor, creditor := c.leaf(cycle, dollar, payer, debt, 0), c.leaf(cycle, dollar, payee, debt, 1)
		low, high := debtor, creditor
		if bytes.Compare(low[:], high[:]) > 0 {
			low, high = high, low
		}
		root := evm.Keccak256(low[:], high[:])
		posted, err := c.reader.Cycle(ctx, cycle)
		if err != nil || posted.Root != root || posted.Posted != 2 || posted.Total != money.Units(debt) || posted.PeriodStart != start || posted.Sealed {
			t.Fatalf("posted %+v, %v; want root %v", posted, err, root)
		}
		c.send(operator, c.CommitCycle(cycle, dollar, root, money.Units(debt), uint64(c.chain.Time().Unix())+5))
		sealed, err := c.reader.Cycle(ctx, cycle)
		if err != nil || !sealed.Sealed || sealed.Final || sealed.Finality == 0 {
			t.Fatalf("sealed %+v, %v", sealed, err)
		}
		c.said(
			PositionsPosted{cycle, 0, 0, evm.Keccak256(chunk), 2},
			CycleCommitted{cycle, dollar, root, money.Units(debt), sealed.Finality},
		)
		if k == 0 {
			c.send(c.payer, c.PayNetDebit(cycle, dollar, money.Units(debt), []evm.Hash{creditor}))
			c.said(DebtorPaid{cycle, payer, money.Units(debt)})
		}
	}
	last, err := c.reader.Cycle(ctx, cycles[2])
	if err != nil {
		t.Fatal(err)
	}
	c.hasCollateral(payer, dollar, 500-2*debt)
	c.at(last.Finality + 1)
	c.send(key(6), c.FinalizeCycle(cycles[1]), c.MarkDefaulted(cycles[1], payer, money.Units(debt), []evm.Hash{c.leaf(cycles[1], dollar, payee, debt, 1)}))
	proof := func(i int) []evm.Hash { return []evm.Hash{c.leaf(cycles[i], dollar, payer, debt, 0)} }
	before := c.dollars(payee)
	c.send(c.payee, c.ClaimNetCredit(cycles[0], money.Units(debt), proof(0)))
	c.send(c.payee, c.ClaimMany([]Claim{{cycles[1], money.Units(debt), proof(1)}}, payee))
	c.send(key(6), c.ClaimToVault(cycles[2], payee, money.Units(debt), proof(2)))
	if got := c.dollars(payee) - before; got != 2*debt {
		t.Errorf("%d units collected, want %d", got, 2*debt)
	}
	c.hasCollateral(payee, dollar, debt)
	for i, want := range []struct{ payer, payee Participant }{
		{Participant{Paid: true}, Participant{Claimed: true}},
		{Participant{Defaulted: true}, Participant{Claimed: true}},
		{Participant{}, Participant{Claimed: true}},
	} {
		for who, state := range map[evm.Address]Participant{payer: want.payer, payee: want.payee} {
			if got, err := c.reader.Participant(ctx, cycles[i], who); err != nil || got != state {
				t.Errorf("cycle %d, %v: %+v, %v; want %+v", i, who.Short(), got, err, state)
			}
		}
	}
	if phase, err := c.reader.Phase(ctx, dollar, c.start); err != nil || phase != PhaseFinal {
		t.Errorf("phase %v, %v", phase, err)
	}
	c.said(
		CycleFinalized{cycles[1]}, DebtorDefaulted{cycles[1], payer, money.Units(debt)}, DefaultCovered{cycles[1], payer, money.Units(debt)},
		CreditorClaimed{cycles[0], payee, money.Units(debt)},
		ScheduleSet{dollar, Schedule{FromStart: c.start, Length: 6, Cutoff: 1, Post: 4, Challenge: 4, Repost: 4, Redeem: 10}},
	)
}

// What an abandoned posting took comes back, and what the bond filled goes back to it.
func TestAnAbandonedPostingIsReleased(t *testing.T) {
	t.Parallel()
	c := newClearing(t)
	dollar, payer := devchain.TestDollar, c.payer.Address()
	c.send(c.payer, Approve(dollar, c.Vault, NoLimit()), c.DepositStablecoin(dollar, money.Units(50)))
	c.at(c.start + 7)
	cycle, chunk := guarantee.CycleID(dollar, c.start), position(payer, 0, 80)
	c.send(key(0), c.PostPositions(dollar, c.start, 0, 0, 10, chunk))
	c.hasCollateral(payer, dollar, 0)
	c.at(c.start + 60)
	if phase, err := c.reader.Phase(t.Context(), dollar, c.start); err != nil || phase != PhaseFailed {
		t.Errorf("phase %v, %v", phase, err)
	}
	c.send(key(6), c.Release(cycle, 0, 0, chunk))
	c.hasCollateral(payer, dollar, 50)
	if bond, err := c.reader.Bond(t.Context(), dollar); err != nil || bond != money.Units(1000) {
		t.Errorf("bond %v, %v", bond, err)
	}
	c.said(DebtFilled{cycle, payer, money.Units(30)}, ChunkReleased{cycle, 0, 0})
}

// Every packer fits the contracts' interface, and every event that has a type decodes from what its interface declares.
func TestEveryCallAndEventFitsTheArtifacts(t *testing.T) {
	t.Parallel()
	c := Contracts{Vault: evm.Address{1}, ClearingHouse: evm.Address{2}}
	who, id, n := evm.Address{3}, evm.Hash{4}, money.Units(5)
	for _, call := range []evm.Call{
		c.Deposit(n), c.DepositStablecoin(who, n), c.DepositWithAuthorization(who, Authorization{}), c.RequestWithdrawal(who, n),
		c.CancelWithdrawal(who), c.FinalizeWithdrawal(who), c.FinalizeWithdrawalTo(who, who), c.SetAutoSettle(true), c.SetLimitPerCycle(who, NoLimit()),
		c.AddStablecoinAsset(who), c.RegisterKey(Key{}, KeyProof{}, 1), c.RevokeKey(1), c.DepositBond(who, n), c.SetSchedule(who, Schedule{}),
		c.SetBondRule(who, n, n, 1), c.PostPositions(who, 1, 0, 0, 10, []byte{1}), c.CommitCycle(id, who, id, n, 1), c.PayNetDebit(id, who, n, nil),
		c.MarkDefaulted(id, who, n, []evm.Hash{id}), c.ClaimNetCredit(id, n, nil), c.ClaimMany([]Claim{{id, n, nil}}, who), c.ClaimToVault(id, who, n, nil),
		c.FinalizeCycle(id), c.Release(id, 0, 0, []byte{1}), Approve(who, who, n), Transfer(who, who, n), Mint(who, who, n),
	} {
		if name, _ := unpackCall(call.Data); name == "" {
			t.Errorf("a call to %v does not read back", call.To)
		}
	}
	if native := c.PayNetDebit(id, evm.Address{}, n, nil); native.Value != n.Word() {
		t.Error("a native debt travels without its coin")
	}
	typed := 0
	for at, contract := range map[evm.Address]abi.ABI{c.Vault: vaultABI, c.ClearingHouse: houseABI} {
		for _, event := range contract.Events {
			l := evm.Log{Address: at, Topics: []evm.Hash{evm.Hash(event.ID)}, Data: make([]byte, 32*16)}
			for _, input := range event.Inputs {
				if input.Indexed {
					l.Topics = append(l.Topics, evm.Hash{})
				}
			}
			decoded, err := c.Decode(l)
			if err != nil {
				t.Errorf("%s: %v", event.Name, err)
			}
			if decoded != nil {
				typed++
			}
			l.Data = nil
			if decoded, err = c.Decode(l); len(event.Inputs.NonIndexed()) > 0 && err == nil {
				t.Errorf("%s without its data is %+v", event.Name, decoded)
			}
			l.Topics = append(l.Topics, evm.Hash{})
			if _, err = c.Decode(l); err == nil {
				t.Errorf("%s with a topic too many was read", event.Name)
			}
		}
	}
	if typed != 24 {
		t.Errorf("%d events have a type, want 24", typed)
	}
}

func TestRevertReasons(t *testing.T) {
	t.Parallel()
	for name, contract := range map[string]abi.ABI{"InsufficientAvailable()": vaultABI, "BondTooLow(7, 7)": houseABI, "UnsupportedAsset(0x0000000000000000000000000000000000000007)": vaultABI} {
		known := contract.Errors[strings.SplitN(name, "(", 2)[0]]
		data := slices.Clone(known.ID[:4])
		for range known.Inputs {
			word := evm.WordUint64(7)
			data = append(data, word[:]...)
		}
		if got := revertReason(data); got != name {
			t.Errorf("%q, want %q", got, name)
		}
	}
	for data, want := range map[string]string{"": "no reason given", "\x01\x02\x03\x04": "0x01020304"} {
		if got := revertReason([]byte(data)); got != want {
			t.Errorf("%q: %q, want %q", data, got, want)
		}
	}
}
