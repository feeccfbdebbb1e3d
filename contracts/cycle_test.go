package contracts_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	"github.com/ethereum/go-ethereum/params"

	"github.com/farthing402/farthing/contracts"
)

// chain is a simulated network with the contracts deployed on it.
type chain struct {
	t       *testing.T
	ctx     context.Context
	backend *simulated.Backend
	id      *big.Int

	operator, alice, bob, carol *ecdsa.PrivateKey

	vault, house, usd          common.Address
	vaultABI, houseABI, usdABI abi.ABI
}

// schedule is the tuple of ClearingHouse.setSchedule.
type schedule struct {
	FromStart                                       uint64
	Length, Cutoff, Post, Challenge, Repost, Redeem uint32
}

const withdrawalDelay = 60

func newChain(t *testing.T) *chain {
	t.Helper()
	c := &chain{
		t: t, ctx: t.Context(),
		vaultABI: parseABI(t, contracts.Vault), houseABI: parseABI(t, contracts.ClearingHouse), usdABI: parseABI(t, contracts.TestDollar),
	}
	alloc := types.GenesisAlloc{}
	ether := new(big.Int).Exp(big.NewInt(10), big.NewInt(21), nil)
	for i, key := range []**ecdsa.PrivateKey{&c.operator, &c.alice, &c.bob, &c.carol} {
		// A fixed secret, so that a failure can be looked at twice.
		k, err := crypto.ToECDSA(crypto.Keccak256([]byte{byte(i)}))
		if err != nil {
			t.Fatal(err)
		}
		*key = k
		alloc[crypto.PubkeyToAddress(k.PublicKey)] = types.Account{Balance: ether}
	}
	// The dollar is part of the genesis: its runtime code needs no constructor.
	c.usd = common.HexToAddress("0x00000000000000000000000000000000000d0114")
	alloc[c.usd] = types.Account{Code: contracts.TestDollar.Deployed, Balance: new(big.Int)}

	c.backend = simulated.NewBackend(alloc)
	t.Cleanup(func() { _ = c.backend.Close() })
	var err error
	if c.id, err = c.backend.Client().ChainID(c.ctx); err != nil {
		t.Fatal(err)
	}

	deployer := addr(c.operator)
	c.vault = crypto.CreateAddress(deployer, 0)
	c.house = crypto.CreateAddress(deployer, 1)
	disputes, redemption := crypto.CreateAddress(deployer, 2), crypto.CreateAddress(deployer, 3)
	args, err := c.vaultABI.Pack("", c.house, disputes, redemption, common.Address{}, uint64(withdrawalDelay), []common.Address{c.usd})
	c.must(err)
	c.send(c.operator, nil, slices.Concat(contracts.Vault.Bytecode, args), nil)
	args, err = c.houseABI.Pack("", c.vault, deployer, common.Address{}, uint64(3))
	c.must(err)
	c.send(c.operator, nil, slices.Concat(contracts.ClearingHouse.Bytecode, args), nil)
	return c
}

func addr(k *ecdsa.PrivateKey) common.Address { return crypto.PubkeyToAddress(k.PublicKey) }

func (c *chain) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// now returns the time of the newest block.
func (c *chain) now() uint64 {
	c.t.Helper()
	h, err := c.backend.Client().HeaderByNumber(c.ctx, nil)
	c.must(err)
	return h.Time
}

// at makes the next block carry the given time.
func (c *chain) at(when uint64) {
	c.t.Helper()
	gap := time.Duration(when-c.now()-1) * time.Second
	if gap == 0 {
		return
	}
	// The pool takes a moment to see that a block has its transactions, and until then the backend refuses.
	err := c.backend.AdjustTime(gap)
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); err = c.backend.AdjustTime(gap) {
		<-time.After(5 * time.Millisecond)
	}
	c.must(err)
}

// send mines one transaction and returns its receipt; it must succeed.
func (c *chain) send(from *ecdsa.PrivateKey, to *common.Address, data []byte, value *big.Int) *types.Receipt {
	c.t.Helper()
	client := c.backend.Client()
	nonce, err := client.PendingNonceAt(c.ctx, addr(from))
	c.must(err)
	head, err := client.HeaderByNumber(c.ctx, nil)
	c.must(err)
	tip := big.NewInt(params.GWei) // the miner leaves lower ones out
	feeCap := new(big.Int).Add(tip, new(big.Int).Mul(head.BaseFee, big.NewInt(2)))
	tx, err := types.SignNewTx(from, types.LatestSignerForChainID(c.id), &types.DynamicFeeTx{
		ChainID: c.id, Nonce: nonce, GasTipCap: tip, GasFeeCap: feeCap,
		Gas: 8_000_000, To: to, Data: data, Value: value,
	})
	c.must(err)
	c.must(client.SendTransaction(c.ctx, tx))
	c.backend.Commit()
	receipt, err := client.TransactionReceipt(c.ctx, tx.Hash())
	for err != nil && strings.Contains(err.Error(), "indexing is in progress") { // the node has just started
		runtime.Gosched()
		receipt, err = client.TransactionReceipt(c.ctx, tx.Hash())
	}
	c.must(err)
	if receipt.Status != types.ReceiptStatusSuccessful {
		_, err := client.CallContract(c.ctx, ethereum.CallMsg{From: addr(from), To: to, Data: data, Value: value}, receipt.BlockNumber)
		c.t.Fatalf("transaction reverted: %s", c.reason(err))
	}
	return receipt
}

// reason names the contract's error in a failed call.
func (c *chain) reason(err error) string {
	var data interface{ ErrorData() any }
	if !errors.As(err, &data) {
		return "no data"
	}
	text, _ := data.ErrorData().(string)
	raw := common.FromHex(text)
	if len(raw) < 4 {
		return text
	}
	for _, a := range []abi.ABI{c.vaultABI, c.houseABI, c.usdABI} {
		if e, err := a.ErrorByID([4]byte(raw)); err == nil {
			return e.Name
		}
	}
	return text
}

func (c *chain) call(from *ecdsa.PrivateKey, to common.Address, a abi.ABI, value int64, name string, args ...any) *types.Receipt {
	c.t.Helper()
	data, err := a.Pack(name, args...)
	c.must(err)
	return c.send(from, &to, data, big.NewInt(value))
}

func (c *chain) onVault(from *ecdsa.PrivateKey, name string, args ...any) *types.Receipt {
	c.t.Helper()
	return c.call(from, c.vault, c.vaultABI, 0, name, args...)
}

func (c *chain) onHouse(from *ecdsa.PrivateKey, name string, args ...any) *types.Receipt {
	c.t.Helper()
	return c.call(from, c.house, c.houseABI, 0, name, args...)
}

func (c *chain) onUSD(from *ecdsa.PrivateKey, name string, args ...any) *types.Receipt {
	c.t.Helper()
	return c.call(from, c.usd, c.usdABI, 0, name, args...)
}

func (c *chain) read(to common.Address, a abi.ABI, name string, args ...any) []any {
	c.t.Helper()
	data, err := a.Pack(name, args...)
	c.must(err)
	raw, err := c.backend.Client().CallContract(c.ctx, ethereum.CallMsg{To: &to, Data: data}, nil)
	if err != nil {
		c.t.Fatalf("%s: %s", name, c.reason(err))
	}
	values, err := a.Unpack(name, raw)
	c.must(err)
	return values
}

// refused checks that a call would revert with the named error in the next block.
func (c *chain) refused(from *ecdsa.PrivateKey, want, name string, args ...any) {
	c.t.Helper()
	data, err := c.houseABI.Pack(name, args...)
	c.must(err)
	_, err = c.backend.Client().CallContract(c.ctx, ethereum.CallMsg{From: addr(from), To: &c.house, Data: data}, nil)
	if err == nil {
		c.t.Fatalf("%s was accepted, want %s", name, want)
	}
	if got := c.reason(err); got != want {
		c.t.Errorf("%s: have %s, want %s", name, got, want)
	}
}

func (c *chain) collateral(who *ecdsa.PrivateKey) int64 {
	c.t.Helper()
	return c.read(c.vault, c.vaultABI, "guaranteeCapacity", addr(who), c.usd)[0].(*big.Int).Int64()
}

func (c *chain) balance(who common.Address) int64 {
	c.t.Helper()
	return c.read(c.usd, c.usdABI, "balanceOf", who)[0].(*big.Int).Int64()
}

func (c *chain) fund(who *ecdsa.PrivateKey, amount int64) {
	c.t.Helper()
	c.onUSD(who, "mint", addr(who), big.NewInt(2*amount))
	c.onUSD(who, "approve", c.vault, big.NewInt(2*amount))
	c.onVault(who, "depositStablecoin", c.usd, big.NewInt(amount))
}

func has(receipt *types.Receipt, topic common.Hash) bool {
	for _, l := range receipt.Logs {
		if l.Topics[0] == topic {
			return true
		}
	}
	return false
}

// One cycle on the committed bytecode, with two debtors of whom one pays and one defaults, and two creditors of whom one
// takes cash and one collateral.
func TestACycle(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	dave, err := crypto.ToECDSA(crypto.Keccak256([]byte("dave")))
	c.must(err)
	for name, a := range map[common.Address]contracts.Artifact{c.vault: contracts.Vault, c.house: contracts.ClearingHouse, c.usd: contracts.TestDollar} {
		code, err := c.backend.Client().CodeAt(c.ctx, name, nil)
		c.must(err)
		if !a.Matches(code) {
			t.Errorf("%s on chain is not the artifact", a.Name)
		}
	}

	c.fund(c.alice, 1000)
	c.fund(c.bob, 500)
	if got := c.balance(c.vault); got != 1500 {
		t.Fatalf("the vault holds %d", got)
	}
	// Ahead of the wall clock each block is one second after the one before, so that the windows can be hit exactly.
	c.at(c.now() + 3600)
	start := c.now() + 2
	c.onHouse(c.operator, "setSchedule", c.usd, schedule{start, 6, 1, 4, 4, 4, 10})
	id := common.Hash(c.read(c.house, c.houseABI, "cycleIdOf", c.usd, start)[0].([32]byte))
	if want := crypto.Keccak256Hash([]byte(lower(c.usd) + ":" + new(big.Int).SetUint64(start).String())); id != want {
		t.Fatalf("cycle id: have %s, want %s", id, want)
	}

	book := []position{
		{addr(c.alice), 0, big.NewInt(700), common.HexToHash("0x01")},
		{addr(c.bob), 0, big.NewInt(300), common.HexToHash("0x02")},
		{addr(c.carol), 1, big.NewInt(600), common.HexToHash("0x03")},
		{addr(dave), 1, big.NewInt(400), common.HexToHash("0x04")},
	}
	slices.SortFunc(book, func(a, b position) int { return a.who.Cmp(b.who) })
	var leaves []common.Hash
	for _, p := range book {
		leaves = append(leaves, leaf(c.id, c.house, id, c.usd, p))
		got := common.Hash(c.read(c.house, c.houseABI, "participantLeaf", id, c.usd, p.who, p.amount, p.role)[0].([32]byte))
		if got != leaves[len(leaves)-1] {
			t.Fatalf("leaf of %s differs", p.who)
		}
	}
	proof := func(who *ecdsa.PrivateKey) [][32]byte {
		return prove(leaves, slices.IndexFunc(book, func(p position) bool { return p.who == addr(who) }))
	}
	root, total := fold(leaves), big.NewInt(1000)

	c.refused(c.operator, "PostingNotOpen", "postPositions", c.usd, start, uint64(0), uint64(0), uint8(10), pack(book))
	c.at(start + 7)
	receipt := c.onHouse(c.operator, "postPositions", c.usd, start, uint64(0), uint64(0), uint8(10), pack(book))
	if !has(receipt, c.houseABI.Events["PositionsPosted"].ID) {
		t.Error("no PositionsPosted")
	}
	if a, b := c.collateral(c.alice), c.collateral(c.bob); a != 300 || b != 200 {
		t.Errorf("after posting: alice %d, bob %d", a, b)
	}
	c.refused(c.operator, "InvalidProof", "commitCycle", id, c.usd, common.Hash{1}, total, total, c.now()+2, c.now()+2)
	receipt = c.onHouse(c.operator, "commitCycle", id, c.usd, root, total, total, c.now()+2, c.now()+2)
	if !has(receipt, c.houseABI.Events["CycleCommitted"].ID) {
		t.Error("no CycleCommitted")
	}
	sealedAt := c.now()

	c.refused(c.carol, "PaymentFinalityPending", "claimNetCredit", id, big.NewInt(600), proof(c.carol))
	c.onHouse(c.alice, "payNetDebit", id, big.NewInt(700), proof(c.alice))
	if got := c.collateral(c.alice); got != 1000 {
		t.Errorf("alice has %d after paying, want all she deposited", got)
	}

	c.at(sealedAt + 5)
	receipt = c.onHouse(c.carol, "claimNetCredit", id, big.NewInt(600), proof(c.carol))
	if !has(receipt, c.houseABI.Events["CycleFinalized"].ID) {
		t.Error("the first claim did not finalize the cycle")
	}
	if got := c.balance(addr(c.carol)); got != 600 {
		t.Errorf("carol was paid %d", got)
	}
	receipt = c.onHouse(c.carol, "markDefaulted", id, addr(c.bob), big.NewInt(300), proof(c.bob))
	for _, name := range []string{"DebtorDefaulted", "DefaultCovered"} {
		if !has(receipt, c.houseABI.Events[name].ID) {
			t.Errorf("no %s", name)
		}
	}
	receipt = c.onHouse(c.alice, "claimToVault", id, addr(dave), big.NewInt(400), proof(dave))
	if !has(receipt, c.vaultABI.Events["CollateralDeposited"].ID) {
		t.Error("no CollateralDeposited")
	}
	if got := c.collateral(dave); got != 400 {
		t.Errorf("dave has %d", got)
	}
	c.refused(c.carol, "AlreadyClaimed", "claimNetCredit", id, big.NewInt(600), proof(c.carol))
	if got := c.balance(c.vault); got != 1000+200+400 {
		t.Errorf("the vault holds %d, want what alice, bob and dave have", got)
	}

	c.onVault(c.bob, "requestWithdrawal0", c.usd, big.NewInt(200))
	c.at(c.now() + withdrawalDelay)
	before := c.balance(addr(c.bob))
	c.onVault(c.bob, "finalizeWithdrawal", c.usd)
	if got := c.balance(addr(c.bob)) - before; got != 200 {
		t.Errorf("bob withdrew %d", got)
	}
}

// A BLS key is registered with a proof that its secret is held, and certificates then verify on the precompiles.
func TestCertificatesOnChain(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	v := readVectors(t).Certificate
	secret := new(big.Int).SetBytes(common.FromHex(v.SecretKey))
	key := g1Of(v.KeyWords)
	message := c.read(c.vault, c.vaultABI, "keyMessage", key)[0].([]byte)

	for name, proof := range map[string][]common.Hash{
		"of another message": blsSign(t, secret, append(message, 0)),
		"of another key":     blsSign(t, new(big.Int).Add(secret, big.NewInt(1)), message),
		"the zero point":     make([]common.Hash, 8),
	} {
		data, err := c.vaultABI.Pack("registerKey", key, g2Of(proof), uint64(0))
		c.must(err)
		_, err = c.backend.Client().CallContract(c.ctx, ethereum.CallMsg{From: addr(c.operator), To: &c.vault, Data: data}, nil)
		if err == nil || c.reason(err) != "InvalidSignature" {
			t.Errorf("proof %s: %v", name, err)
		}
	}
	c.onVault(c.operator, "registerKey", key, g2Of(blsSign(t, secret, message)), uint64(100))

	claims := common.FromHex(v.Claims)
	certified := func(message []byte, signature []common.Hash, start uint64) bool {
		return c.read(c.vault, c.vaultABI, "certified", big.NewInt(0), message, g2Of(signature), start)[0].(bool)
	}
	if !certified(claims, v.SignatureWords, 100) {
		t.Error("the reference's certificate does not verify")
	}
	if certified(claims, v.SignatureWords, 99) {
		t.Error("verifies for a cycle before the key's")
	}
	if certified(claims[1:], v.SignatureWords, 100) {
		t.Error("verifies other bytes")
	}
	bent := slices.Clone(v.SignatureWords)
	bent[7][31] ^= 1
	if certified(claims, bent, 100) {
		t.Error("verifies a point that is not on the curve")
	}

	receipt := c.onVault(c.operator, "revokeKey", big.NewInt(0))
	if !has(receipt, c.vaultABI.Events["KeyRevoked"].ID) {
		t.Error("no KeyRevoked")
	}
	if !certified(claims, v.SignatureWords, c.now()) {
		t.Error("revoking acted on a cycle that had started")
	}
	if certified(claims, v.SignatureWords, c.now()+1) {
		t.Error("a revoked key certifies the next cycle")
	}
}

func lower(a common.Address) string { return "0x" + common.Bytes2Hex(a[:]) }
