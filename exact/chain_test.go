package exact

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/holiman/uint256"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// world is a development chain with its test money, driven by hand.
type world struct {
	t      *testing.T
	chain  *devchain.Chain
	client *chain.Client
	node   *ethclient.Client
	keys   []*evm.PrivateKey
	nonce  byte
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c, err := devchain.Start(t.Context(), devchain.Config{Manual: true, Genesis: time.Unix(1767225600, 0)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	client, err := chain.Dial(t.Context(), c.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	node, err := ethclient.DialContext(t.Context(), c.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	w := &world{t: t, chain: c, client: client, node: node, keys: devchain.Accounts()}
	w.mine()
	return w
}

func (w *world) mine() {
	w.t.Helper()
	if err := w.chain.Mine(w.t.Context(), 1); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) now() time.Time { return w.chain.Time() }

// dynamic signs a transaction of an account; nil to creates a contract.
func (w *world) dynamic(key *evm.PrivateKey, to *evm.Address, data []byte) *types.Transaction {
	w.t.Helper()
	nonce, err := w.node.PendingNonceAt(w.t.Context(), common.Address(key.Address()))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.signed(key, &types.DynamicFeeTx{
		ChainID: big.NewInt(devchain.DefaultChainID), Nonce: nonce, To: (*common.Address)(to), Gas: 1_000_000, Data: data,
		GasTipCap: big.NewInt(100_000_000), GasFeeCap: big.NewInt(100_000_000),
	})
}

func (w *world) signed(key *evm.PrivateKey, body types.TxData) *types.Transaction {
	w.t.Helper()
	private, err := crypto.ToECDSA(key.Bytes())
	if err != nil {
		w.t.Fatal(err)
	}
	tx, err := types.SignNewTx(private, types.LatestSignerForChainID(big.NewInt(devchain.DefaultChainID)), body)
	if err != nil {
		w.t.Fatal(err)
	}
	return tx
}

// mined puts transactions into one block and returns their receipts.
func (w *world) mined(txs ...*types.Transaction) []*evm.TxReceipt {
	w.t.Helper()
	for _, tx := range txs {
		if err := w.node.SendTransaction(w.t.Context(), tx); err != nil {
			w.t.Fatal(err)
		}
	}
	w.mine()
	receipts := make([]*evm.TxReceipt, len(txs))
	for i, tx := range txs {
		var err error
		if receipts[i], err = w.client.Receipt(w.t.Context(), evm.Hash(tx.Hash())); err != nil || receipts[i] == nil {
			w.t.Fatalf("receipt of transaction %d: %v", i, err)
		}
	}
	return receipts
}

func (w *world) send(key *evm.PrivateKey, to evm.Address, data []byte) *evm.TxReceipt {
	w.t.Helper()
	return w.mined(w.dynamic(key, &to, data))[0]
}

// must is send for what is only preparation.
func (w *world) must(key *evm.PrivateKey, to evm.Address, data []byte) {
	w.t.Helper()
	if r := w.send(key, to, data); !r.OK {
		w.t.Fatalf("preparation of %s failed", to)
	}
}

func (w *world) create(code []byte) evm.Address {
	w.t.Helper()
	key := w.keys[9]
	tx := w.dynamic(key, nil, deployment(code))
	nonce := tx.Nonce()
	if !w.mined(tx)[0].OK {
		w.t.Fatal("contract was not created")
	}
	return evm.Address(crypto.CreateAddress(common.Address(key.Address()), nonce))
}

func (w *world) approve(key *evm.PrivateKey, token, spender evm.Address) {
	w.t.Helper()
	w.must(key, token, evm.EncodeCall([4]byte(approveSelector), addressArg(spender), amountArg(unlimited)))
}

func (w *world) mint(token, to evm.Address, amount uint64) {
	w.t.Helper()
	w.must(w.keys[9], token, evm.EncodeCall(evm.Selector("mint(address,uint256)"), addressArg(to), numberArg(amount)))
}

func (w *world) balance(token, of evm.Address) money.Amount {
	w.t.Helper()
	b, err := w.client.TokenBalance(w.t.Context(), token, of)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// fresh returns a nonce that was not used before.
func (w *world) fresh() evm.Hash { w.nonce++; return evm.Hash{0: 0x77, 30: 1, 31: w.nonce} }

const price = 12_345

var payee = evm.MustAddress(seller)

// offer is what a seller asks for on the world's chain.
func offer(scheme string, token evm.Address, extra map[string]string) x402.Requirements {
	r := x402.Requirements{
		Scheme: scheme, Network: "eip155:31337", Amount: money.Units(price).String(), Asset: token.String(), PayTo: seller, MaxTimeoutSeconds: 60,
		Extra: map[string]json.RawMessage{},
	}
	for k, v := range extra {
		r.Extra[k], _ = json.Marshal(v)
	}
	return r
}

func dollars(token evm.Address) x402.Requirements {
	return offer(Scheme, token, map[string]string{"name": "Test Dollar", "version": "2"})
}

func throughPermit2(token evm.Address) x402.Requirements {
	return offer(Scheme, token, map[string]string{"name": "Test Dollar", "version": "2", "assetTransferMethod": "permit2"})
}

func upto(token, facilitator evm.Address) x402.Requirements {
	return offer(UptoScheme, token, map[string]string{"name": "Test Dollar", "version": "2", "assetTransferMethod": "permit2", "facilitatorAddress": facilitator.String()})
}

func legacy(token, spender evm.Address) x402.Requirements {
	return offer(LegacyScheme, token, map[string]string{"spender": spender.String(), "tokenType": "legacy"})
}

// pay makes the payment for an offer as it travels.
func (w *world) pay(key evm.Signer, r x402.Requirements) Authorization {
	w.t.Helper()
	a, err := Pay(w.t.Context(), key, r, w.fresh(), w.now())
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) wire(a Authorization, r x402.Requirements) x402.Payment {
	w.t.Helper()
	payload, err := a.Payload()
	if err != nil {
		w.t.Fatal(err)
	}
	advertised := map[string]json.RawMessage{PermitExtension: json.RawMessage(`{"info":{"version":"1"},"schema":{}}`), ApprovalExtension: json.RawMessage(`{"info":{"version":"1"},"schema":{}}`)}
	extensions, err := a.Extensions(advertised)
	if err != nil {
		w.t.Fatal(err)
	}
	return x402.Payment{Version: 2, Scheme: r.Scheme, Network: r.Network, Accepted: &r, Payload: payload, Extensions: extensions}
}

// contractKey signs as the owner of a contract account: its signatures have one byte more than a key's.
type contractKey struct {
	owner   *evm.PrivateKey
	account evm.Address
}

func (k contractKey) sign(t *testing.T, a Authorization) []byte {
	t.Helper()
	sig, err := k.owner.Sign(t.Context(), a.Digest())
	if err != nil {
		t.Fatal(err)
	}
	return append(sig[:], 0)
}

// walletCode is an ERC-1271 account, in assembly: it takes what ecrecover finds to be signed by its owner.
func walletCode(owner evm.Address) []byte {
	return assemble("600435600052"+ // the digest
		"60a43560001a602052"+"606435604052"+"608435606052"+ // v, r, s from behind the length of the signature
		"602060806080600060015afa50"+ // ecrecover
		"60805173", owner[:], "14604957"+"60006000fd"+"5b631626ba7e60e01b60005260206000f3")
}

// tokenCode is a test dollar in which a call of transferWithAuthorization runs something else.
func tokenCode(instead string) []byte {
	return assemble("3660006000376000"+"35"+"60e01c"+"63", selTransferParts[:], "14604657"+
		"600060003660"+"0073", devchain.TestDollar[:], "5af4"+"3d600060003e"+"604057"+"3d6000fd"+"5b3d6000f3"+"00"+"5b"+instead)
}

func assemble(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			c, err := hex.DecodeString(p)
			if err != nil {
				panic(err)
			}
			b = append(b, c...)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// deployment is code that creates code: PUSH2 size, DUP1, PUSH1 12, PUSH1 0, CODECOPY, PUSH1 0, RETURN.
func deployment(code []byte) []byte {
	return assemble("61", []byte{byte(len(code) >> 8), byte(len(code))}, "80600c6000396000f3", code)
}

func (w *world) verifier() *Verifier {
	return &Verifier{Chain: w.client, Simulate: true, Signers: []evm.Address{w.keys[0].Address()}, Factories: []evm.Address{Deployer}, Approvals: true}
}

// Each way to pay once from the payment to the receipt, on a real EVM: what passes settles, moves exactly what was signed,
// is proven, and does not pass again.
func TestPaymentsSettle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.verifier()
	facilitator := w.keys[0]
	usdc, usdt := devchain.TestDollar, devchain.TestTether

	wallet := w.create(walletCode(w.keys[3].Address()))
	w.mint(usdc, wallet, 1_000_000)

	// A contract account that is not there yet, but has money.
	initCode, salt := deployment(walletCode(w.keys[4].Address())), evm.Hash{5}
	codeHash := evm.Keccak256(initCode)
	h := evm.Keccak256([]byte{0xff}, Deployer[:], salt[:], codeHash[:])
	coming := evm.Address(h[12:])
	w.mint(usdc, coming, 1_000_000)

	// A key whose account runs code (EIP-7702).
	delegated := w.keys[5]
	w.delegate(delegated, w.create(walletCode(delegated.Address())))

	w.approve(w.keys[1], usdc, Permit2Address)
	w.approve(w.keys[1], usdt, Permit2Address)
	w.approve(w.keys[1], usdt, facilitator.Address())
	approvals := w.keys[6]

	as := func(from evm.Address) func(*Authorization) { return func(a *Authorization) { a.From = from } }
	for _, c := range []struct {
		name   string
		key    *evm.PrivateKey
		offer  x402.Requirements
		change func(*Authorization) // before it is signed again as the contract's
		wrap   bool
		last   func(*testing.T, *Authorization)
		charge uint64
		again  string // the refusal of a second use
	}{
		{name: "EIP-3009", key: w.keys[1], offer: dollars(usdc), again: "invalid_exact_evm_nonce_already_used"},
		{name: "EIP-3009 with the v of a recovery id", key: w.keys[1], offer: dollars(usdc), again: "invalid_exact_evm_nonce_already_used",
			last: func(t *testing.T, a *Authorization) { a.Signature[64] -= 27 }},
		{name: "EIP-3009 of a contract account", key: w.keys[3], offer: dollars(usdc), change: as(wallet), again: "invalid_exact_evm_nonce_already_used"},
		{name: "EIP-3009 of a contract account to be deployed", key: w.keys[4], offer: dollars(usdc), change: as(coming), wrap: true, again: "invalid_exact_evm_nonce_already_used"},
		{name: "EIP-3009 of a delegated key", key: delegated, offer: dollars(usdc), change: func(*Authorization) {}, again: "invalid_exact_evm_nonce_already_used"},
		{name: "Permit2", key: w.keys[1], offer: throughPermit2(usdc), again: "permit2_simulation_failed"},
		{name: "Permit2 of a token without signatures", key: w.keys[1], offer: throughPermit2(usdt), again: "permit2_simulation_failed"},
		{name: "Permit2 with a permit", key: w.keys[2], offer: throughPermit2(usdc), again: "permit2_allowance_required",
			last: func(t *testing.T, a *Authorization) {
				b, err := a.Sponsored(t.Context(), w.keys[2], money.Amount{})
				if err != nil {
					t.Fatal(err)
				}
				*a = b
			}},
		{name: "Permit2 with an approval", key: approvals, offer: throughPermit2(usdt),
			last: func(t *testing.T, a *Authorization) {
				raw, err := w.dynamic(approvals, &usdt, evm.EncodeCall([4]byte(approveSelector), addressArg(Permit2Address), amountArg(unlimited))).MarshalBinary()
				if err != nil {
					t.Fatal(err)
				}
				b, err := a.Approved(raw)
				if err != nil {
					t.Fatal(err)
				}
				*a = b
			}},
		{name: "upto", key: w.keys[1], offer: upto(usdc, facilitator.Address()), charge: 345, again: "permit2_simulation_failed"},
		{name: "upto in full", key: w.keys[1], offer: upto(usdc, facilitator.Address()), again: "permit2_simulation_failed"},
		{name: "upto with a permit", key: w.keys[7], offer: upto(usdc, facilitator.Address()), charge: 1, again: "permit2_allowance_required",
			last: func(t *testing.T, a *Authorization) {
				b, err := a.Sponsored(t.Context(), w.keys[7], money.Amount{})
				if err != nil {
					t.Fatal(err)
				}
				*a = b
			}},
		{name: "exact-legacy", key: w.keys[1], offer: legacy(usdt, facilitator.Address())},
	} {
		token := evm.MustAddress(c.offer.Asset)
		a := w.pay(c.key, c.offer)
		if c.change != nil {
			c.change(&a)
			a.Signature = contractKey{c.key, a.From}.sign(t, a)
		}
		if c.wrap {
			a.Signature = append(evm.EncodeArgs(addressArg(Deployer), evm.BytesArg(append(salt[:], initCode...)), evm.BytesArg(a.Signature)), wrapSuffix...)
		}
		if c.last != nil {
			c.last(t, &a)
		}
		sent := w.wire(a, c.offer)
		read, err := v.Verify(t.Context(), sent, c.offer, w.now())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if read.ID() != a.ID() {
			t.Errorf("%s: another payment was read", c.name)
		}
		if used, err := Used(t.Context(), w.client, read); a.Method != Legacy && (err != nil || used) {
			t.Errorf("%s: used before it is settled: %v, %v", c.name, used, err)
		}
		amount := money.Units(price)
		if c.charge != 0 {
			amount = money.Units(c.charge)
		}
		m, err := v.Move(read, amount)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, s := range m.Before {
			needed, err := v.Needed(t.Context(), s)
			if err != nil || !needed {
				t.Errorf("%s: step before is not needed, %v", c.name, err)
			}
			if s.Raw != nil {
				tx := new(types.Transaction)
				if err := tx.UnmarshalBinary(s.Raw); err != nil {
					t.Fatal(err)
				}
				if r := w.mined(tx)[0]; !r.OK {
					t.Errorf("%s: the approval failed", c.name)
				}
			} else if r := w.send(facilitator, s.To, s.Data); !r.OK {
				t.Errorf("%s: the deployment failed", c.name)
			}
			if needed, err := v.Needed(t.Context(), s); err != nil || needed {
				t.Errorf("%s: step before is still needed, %v", c.name, err)
			}
		}
		before, had := w.balance(token, payee), w.balance(token, a.From)
		if m.Proven(nil) {
			t.Errorf("%s: proven by nothing", c.name)
		}
		r := w.send(facilitator, m.To, m.Data)
		if !r.OK {
			t.Errorf("%s: the settlement failed", c.name)
			continue
		}
		if r.GasUsed > m.GasMax {
			t.Errorf("%s: took %d gas, allowed are %d", c.name, r.GasUsed, m.GasMax)
		}
		if !m.Proven(r.Logs) {
			t.Errorf("%s: not proven by %+v", c.name, r.Logs)
		}
		if got, _ := w.balance(token, payee).Sub(before); got != amount {
			t.Errorf("%s: the payee got %s", c.name, got)
		}
		if spent, _ := had.Sub(w.balance(token, a.From)); spent != amount {
			t.Errorf("%s: the payer spent %s", c.name, spent)
		}
		if c.again == "" {
			continue
		}
		if used, err := Used(t.Context(), w.client, read); err != nil || !used {
			t.Errorf("%s: not used after it was settled: %v", c.name, err)
		}
		if _, err := v.Verify(t.Context(), sent, c.offer, w.now()); codeOf(err) != c.again {
			t.Errorf("%s: a second time: %v, want %s", c.name, err, c.again)
		}
		if r := w.send(facilitator, m.To, m.Data); r.OK {
			t.Errorf("%s: settled twice", c.name)
		}
	}
	if _, err := Used(t.Context(), w.client, w.pay(w.keys[1], legacy(usdt, facilitator.Address()))); !errors.Is(err, ErrNoNonce) {
		t.Errorf("nonce of a legacy authorization: %v", err)
	}
}

// delegate makes an account run a contract's code (EIP-7702).
func (w *world) delegate(key *evm.PrivateKey, to evm.Address) {
	w.t.Helper()
	private, err := crypto.ToECDSA(key.Bytes())
	if err != nil {
		w.t.Fatal(err)
	}
	nonce, err := w.node.PendingNonceAt(w.t.Context(), common.Address(key.Address()))
	if err != nil {
		w.t.Fatal(err)
	}
	set, err := types.SignSetCode(private, types.SetCodeAuthorization{ChainID: *uint256.NewInt(devchain.DefaultChainID), Address: common.Address(to), Nonce: nonce})
	if err != nil {
		w.t.Fatal(err)
	}
	sender := w.keys[9]
	senderNonce, err := w.node.PendingNonceAt(w.t.Context(), common.Address(sender.Address()))
	if err != nil {
		w.t.Fatal(err)
	}
	if !w.mined(w.signed(sender, &types.SetCodeTx{
		ChainID: uint256.NewInt(devchain.DefaultChainID), Nonce: senderNonce, Gas: 200_000, To: common.Address(sender.Address()),
		GasTipCap: uint256.NewInt(100_000_000), GasFeeCap: uint256.NewInt(100_000_000), AuthList: []types.SetCodeAuthorization{set},
	}))[0].OK {
		w.t.Fatal("not delegated")
	}
}

// lacking is a chain without some contracts, as a node of another network would show it.
type lacking struct {
	Chain
	without evm.Address
}

func (l lacking) Code(ctx context.Context, a evm.Address) ([]byte, error) {
	if a == l.without {
		return nil, nil
	}
	return l.Chain.Code(ctx, a)
}

func (l lacking) Read(ctx context.Context, from, to evm.Address, data []byte) ([]byte, error) {
	if to == l.without {
		return nil, nil // a call of nobody succeeds and returns nothing
	}
	return l.Chain.Read(ctx, from, to, data)
}

// What only the chain can refuse, both with Multicall3 and by single calls, in the order of the published facilitators.
func TestRefusalsByTheChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	facilitator := w.keys[0]
	usdc, usdt := devchain.TestDollar, devchain.TestTether
	poor, err := evm.NewKey(append(make([]byte, 31), 7))
	if err != nil {
		t.Fatal(err)
	}
	wallet := w.create(walletCode(w.keys[3].Address()))
	w.mint(usdc, wallet, 1_000_000)
	nobody := evm.Address{0xde, 0xad}
	idle := w.create(tokenCode("00"))          // says yes and moves nothing
	endless := w.create(tokenCode("5b604756")) // runs until the gas is gone
	w.mint(idle, w.keys[1].Address(), 1_000_000)
	w.mint(endless, w.keys[1].Address(), 1_000_000)
	w.approve(emptied(w), usdc, Permit2Address)
	refuser := w.keys[5]
	w.delegate(refuser, w.create(walletCode(w.keys[8].Address()))) // somebody else's word counts
	w.approve(w.keys[1], usdc, Permit2Address)
	used := w.pay(w.keys[1], dollars(usdc))
	spent := w.pay(w.keys[1], throughPermit2(usdc))
	for _, a := range []Authorization{used, spent} {
		m, err := w.verifier().Move(a, a.Amount)
		if err != nil {
			t.Fatal(err)
		}
		w.must(facilitator, m.To, m.Data)
	}
	early := w.pay(w.keys[1], dollars(usdc))
	early.ValidAfter = uint64(w.now().Unix()) // in time for the facilitator, a second too early for the token
	sign := func(a Authorization, key *evm.PrivateKey) Authorization {
		sig, err := key.Sign(t.Context(), a.Digest())
		if err != nil {
			t.Fatal(err)
		}
		a.Signature = sig[:]
		return a
	}
	early = sign(early, w.keys[1])
	asWallet := func(sig []byte) Authorization {
		a := w.pay(w.keys[3], dollars(usdc))
		a.From, a.Signature = wallet, sig
		return a
	}
	contractRefuses := asWallet(nil)
	contractRefuses.Signature = contractKey{w.keys[4], wallet}.sign(t, contractRefuses)
	wrapped := func(factory evm.Address) []byte {
		return append(evm.EncodeArgs(addressArg(factory), evm.BytesArg(nil), evm.BytesArg([]byte{1, 2, 3})), wrapSuffix...)
	}
	undeployed := w.pay(w.keys[3], dollars(usdc))
	undeployed.From, undeployed.Signature = nobody, wrapped(nobody)
	unmade := undeployed
	unmade.Signature = wrapped(Deployer)
	rename := func(key, to string) x402.Requirements {
		r := dollars(usdc)
		r.Extra[key], _ = json.Marshal(to)
		return r
	}
	name, version := rename("name", "USD Coin"), rename("version", "1")
	otherFacilitator := upto(usdc, w.keys[1].Address())
	empty := emptied(w)

	for _, c := range []struct {
		name  string
		a     Authorization
		r     x402.Requirements
		code  string
		words string
	}{
		{"token that is none", w.pay(w.keys[1], dollars(nobody)), dollars(nobody), "asset_not_deployed_contract", ""},
		{"contract account refuses", contractRefuses, dollars(usdc), "invalid_exact_evm_signature", "does not take"},
		{"delegated key whose code refuses", w.pay(refuser, dollars(usdc)), dollars(usdc), "invalid_exact_evm_signature", "does not take"},
		{"factory that nobody allowed", undeployed, dollars(usdc), "eip6492_factory_not_allowed", ""},
		{"factory that makes nothing", unmade, dollars(usdc), "invalid_exact_evm_insufficient_balance", ""},
		{"token without EIP-3009", w.pay(w.keys[1], dollars(usdt)), dollars(usdt), "invalid_exact_evm_eip3009_not_supported", ""},
		{"used nonce", used, dollars(usdc), "invalid_exact_evm_nonce_already_used", ""},
		{"wrong name", w.pay(w.keys[1], name), name, "invalid_exact_evm_token_name_mismatch", `"Test Dollar"`},
		{"wrong version", w.pay(w.keys[1], version), version, "invalid_exact_evm_token_version_mismatch", `"2"`},
		{"empty account", w.pay(poor, dollars(usdc)), dollars(usdc), "invalid_exact_evm_insufficient_balance", ""},
		{"refused by the token", early, dollars(usdc), "invalid_exact_evm_transaction_simulation_failed", "not yet valid"},
		{"token that burns gas", w.pay(w.keys[1], dollars(endless)), dollars(endless), "invalid_exact_evm_transaction_simulation_failed", ""},
		{"token that moves nothing", w.pay(w.keys[1], dollars(idle)), dollars(idle), "invalid_exact_evm_transaction_simulation_failed", "moves 0"},

		{"Permit2: token that is none", w.pay(w.keys[1], throughPermit2(nobody)), throughPermit2(nobody), "asset_not_deployed_contract", ""},
		{"Permit2: no money", w.pay(empty, throughPermit2(usdc)), throughPermit2(usdc), "permit2_insufficient_balance", ""},
		{"Permit2: no allowance", w.pay(w.keys[2], throughPermit2(usdc)), throughPermit2(usdc), "permit2_allowance_required", ""},
		{"Permit2: used nonce", spent, throughPermit2(usdc), "permit2_simulation_failed", "InvalidNonce"},
		{"upto: another's", w.pay(w.keys[1], otherFacilitator), otherFacilitator, "upto_facilitator_mismatch", ""},

		{"legacy: no money", w.pay(poor, legacy(usdt, facilitator.Address())), legacy(usdt, facilitator.Address()), "insufficient_funds", ""},
		{"legacy: no allowance", w.pay(w.keys[1], legacy(usdt, facilitator.Address())), legacy(usdt, facilitator.Address()), "insufficient_allowance", ""},
		{"legacy: another's", w.pay(w.keys[1], legacy(usdt, w.keys[1].Address())), legacy(usdt, w.keys[1].Address()), "invalid_spender", ""},
		{"legacy: token that is none of them", w.pay(w.keys[1], legacy(Multicall3, facilitator.Address())), legacy(Multicall3, facilitator.Address()), "allowance_check_failed", ""},
	} {
		for _, single := range []bool{false, true} {
			if single && (c.name == "token that moves nothing" || c.name == "factory that makes nothing") {
				continue // only several calls at once can tell
			}
			v := w.verifier()
			if single {
				v.Chain = lacking{w.client, Multicall3}
			}
			if single && strings.HasPrefix(c.name, "legacy: token that is none") {
				continue
			}
			_, err := v.Verify(t.Context(), w.wire(c.a, c.r), c.r, w.now())
			if got := codeOf(err); got != c.code || c.words != "" && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%s (single calls: %v): %q, %v, want %s", c.name, single, got, err, c.code)
			}
		}
	}

	// A call of a contract that is not there succeeds, so that has to be looked at.
	w.approve(w.keys[1], usdc, Permit2Address)
	for proxy, r := range map[evm.Address]x402.Requirements{ExactProxy: throughPermit2(usdc), UptoProxy: upto(usdc, facilitator.Address())} {
		v := w.verifier()
		v.Chain = lacking{w.client, proxy}
		if _, err := v.Verify(t.Context(), w.wire(w.pay(w.keys[1], r), r), r, w.now()); codeOf(err) != "permit2_proxy_not_deployed" {
			t.Errorf("a chain without %s: %v", proxy, err)
		}
	}
}

// emptied is an account that can pay gas and has no dollars.
func emptied(w *world) *evm.PrivateKey {
	w.t.Helper()
	key := w.keys[8]
	if has := w.balance(devchain.TestDollar, key.Address()); !has.IsZero() {
		w.must(key, devchain.TestDollar, evm.EncodeCall(evm.Selector("transfer(address,uint256)"), addressArg(evm.Address{9}), amountArg(has)))
	}
	return key
}

var errDown = errors.New("node is down")

// counting is a chain that counts what it is asked, and may be down.
type counting struct {
	Chain
	codes, reads atomic.Int32
	down         atomic.Int32 // this many more answers, then none; negative: always up
}

func (c *counting) Code(ctx context.Context, a evm.Address) ([]byte, error) {
	c.codes.Add(1)
	if c.down.Add(-1) == -1 {
		c.down.Store(0)
		return nil, errDown
	}
	return c.Chain.Code(ctx, a)
}

func (c *counting) Read(ctx context.Context, from, to evm.Address, data []byte) ([]byte, error) {
	c.reads.Add(1)
	if c.down.Add(-1) == -1 {
		c.down.Store(0)
		return nil, errDown
	}
	return c.Chain.Read(ctx, from, to, data)
}

// A chain that does not answer says nothing about a payment, wherever in the checks it stops.
func TestChainFaultIsNoRefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.approve(w.keys[1], devchain.TestTether, w.keys[0].Address())
	poor, err := evm.NewKey(append(make([]byte, 31), 7))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []x402.Requirements{dollars(devchain.TestDollar), throughPermit2(devchain.TestDollar), legacy(devchain.TestTether, w.keys[0].Address())} {
		for _, key := range []*evm.PrivateKey{w.keys[1], poor} {
			a := w.pay(key, r)
			faults := 0
			for up := int32(0); ; up++ {
				c := &counting{Chain: w.client}
				c.down.Store(up)
				v := w.verifier()
				v.Chain = c
				_, err := v.Verify(t.Context(), w.wire(a, r), r, w.now())
				if errors.Is(err, errDown) {
					var e *x402.Error
					if errors.As(err, &e) {
						t.Errorf("%s after %d answers: refused with %v", r.Scheme, up, e)
					}
					faults++
					continue
				}
				break
			}
			if faults < 3 {
				t.Errorf("%s: the chain was asked %d times only", r.Scheme, faults)
			}
		}
	}
}

func TestWhatIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := &counting{Chain: w.client}
	c.down.Store(-1 << 30)
	v := w.verifier()
	v.Chain = c
	r := dollars(devchain.TestDollar)
	r.MaxTimeoutSeconds = 3600
	a := w.pay(w.keys[1], r)
	asked := func(after time.Duration) (codes, reads int32) {
		t.Helper()
		c.codes.Store(0)
		c.reads.Store(0)
		if _, err := v.Verify(t.Context(), w.wire(a, r), r, w.now().Add(after)); err != nil {
			t.Fatal(err)
		}
		return c.codes.Load(), c.reads.Load()
	}
	for _, at := range []struct {
		after        time.Duration
		codes, reads int32
	}{
		{0, 3, 1},                // payer, token, Multicall3
		{keyFor - 1, 0, 1},       // nothing anew
		{keyFor, 1, 1},           // the payer
		{codeFor, 3, 1},          // all
		{codeFor + keyFor, 1, 1}, // the payer
	} {
		if codes, reads := asked(at.after); codes != at.codes || reads != at.reads {
			t.Errorf("after %s: asked for %d codes and %d calls, want %d and %d", at.after, codes, reads, at.codes, at.reads)
		}
	}
	// A token that is not there is asked for each time: it may come.
	r = dollars(evm.Address{1})
	a = w.pay(w.keys[1], r)
	for range 2 {
		c.codes.Store(0)
		if _, err := v.Verify(t.Context(), w.wire(a, r), r, w.now()); codeOf(err) != "asset_not_deployed_contract" || c.codes.Load() == 0 {
			t.Errorf("a token that is none: %v after %d questions", err, c.codes.Load())
		}
	}
	for i := range uint64(3 * rememberMax) {
		word := evm.WordUint64(i)
		v.remember(&v.keys, evm.Address(word[12:]), w.now())
	}
	if len(v.keys) > rememberMax {
		t.Errorf("%d accounts are remembered", len(v.keys))
	}
}

// Without a chain everything is checked that needs none.
func TestVerifierWithoutAChain(t *testing.T) {
	t.Parallel()
	var v Verifier
	x := published(t, "x402", "exact_eip3009_v2")
	if _, err := v.Verify(t.Context(), x.p, x.r, clock); err != nil {
		t.Error(err)
	}
	x.resign(t, "0x"+strings.Repeat("11", 65))
	if _, err := v.Verify(t.Context(), x.p, x.r, clock); codeOf(err) != "invalid_exact_evm_signature" {
		t.Error(err)
	}
	x.resign(t, "0x"+strings.Repeat("11", 99))
	if _, err := v.Verify(t.Context(), x.p, x.r, clock); !errors.Is(err, ErrContractSignature) {
		t.Error(err)
	}
	u := published(t, "x402", "upto_permit2_v2")
	v.Signers = []evm.Address{evm.MustAddress(seller)}
	if _, err := v.Verify(t.Context(), u.p, u.r, clock); codeOf(err) != "upto_facilitator_mismatch" {
		t.Error(err)
	}
}

// A verifier of one chain does not judge payments on another.
func TestVerifierOfAnotherChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := published(t, "x402", "exact_eip3009_v2")
	if _, err := w.verifier().Verify(t.Context(), x.p, x.r, clock); codeOf(err) != "invalid_network" {
		t.Error(err)
	}
}

// Several payments in one transaction of Multicall3: each is proven by its own log, and one that fails takes no other
// along.
func TestManyInOneTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.verifier()
	usdc := devchain.TestDollar
	w.approve(w.keys[1], usdc, Permit2Address)
	used := w.pay(w.keys[1], dollars(usdc))
	paid := []Authorization{
		w.pay(w.keys[1], dollars(usdc)), w.pay(w.keys[1], dollars(usdc)), used, w.pay(w.keys[2], dollars(usdc)), w.pay(w.keys[1], throughPermit2(usdc)),
	}
	var moves []Move
	for _, a := range paid {
		m, err := v.Move(a, a.Amount)
		if err != nil {
			t.Fatal(err)
		}
		if !m.Shared {
			t.Fatalf("%s cannot be shared", a.Method)
		}
		moves = append(moves, m)
	}
	first, err := v.Move(used, used.Amount)
	if err != nil {
		t.Fatal(err)
	}
	w.must(w.keys[5], first.To, first.Data)
	items := make([]evm.Arg, len(moves))
	for i, m := range moves {
		items[i] = evm.TupleArg(addressArg(m.To), evm.BytesArg(m.Data))
	}
	r := w.send(w.keys[0], Multicall3, evm.EncodeCall(selTryAggregate, numberArg(0), evm.ListArg(items...)))
	if !r.OK {
		t.Fatal("the transaction failed")
	}
	// Three equal transfers of keys[1] were made and four are claimed; the token's own log of nonces says which of EIP-3009.
	if got, want := fmt.Sprint(Match(moves, r.Logs)), fmt.Sprint([]bool{true, true, false, true, true}); got != want {
		t.Errorf("proven %s, want %s", got, want)
	}
	if u := moves[2]; u.Proven(r.Logs) {
		t.Error("a used authorization is proven by another's transfer")
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	token, from, to := evm.Address{1}, evm.Address{2}, evm.Address{3}
	topic := func(a evm.Address) evm.Hash { return a.Word() }
	log := func(token, from, to evm.Address, amount uint64) evm.Log {
		word := evm.WordUint64(amount)
		return evm.Log{Address: token, Topics: []evm.Hash{transferTopic, topic(from), topic(to)}, Data: word[:]}
	}
	m := Move{Token: token, From: from, Payee: to, Amount: money.Units(5), Method: Permit2}
	good := log(token, from, to, 5)
	dirty := log(token, from, to, 5)
	dirty.Topics[1][0] = 1
	short, long, fewer := log(token, from, to, 5), log(token, from, to, 5), log(token, from, to, 5)
	short.Data, long.Data, fewer.Topics = short.Data[1:], append(long.Data, 0), fewer.Topics[:2]
	for _, c := range []struct {
		name  string
		moves []Move
		logs  []evm.Log
		want  []bool
	}{
		{"its transfer", []Move{m}, []evm.Log{good}, []bool{true}},
		{"nothing", []Move{m}, nil, []bool{false}},
		{"another token", []Move{m}, []evm.Log{log(evm.Address{9}, from, to, 5)}, []bool{false}},
		{"another payer", []Move{m}, []evm.Log{log(token, evm.Address{9}, to, 5)}, []bool{false}},
		{"another payee", []Move{m}, []evm.Log{log(token, from, evm.Address{9}, 5)}, []bool{false}},
		{"less, as a token with a fee does", []Move{m}, []evm.Log{log(token, from, to, 4), log(token, from, evm.Address{9}, 1)}, []bool{false}},
		{"more", []Move{m}, []evm.Log{log(token, from, to, 6)}, []bool{false}},
		{"in two parts", []Move{m}, []evm.Log{log(token, from, to, 2), log(token, from, to, 3)}, []bool{false}},
		{"backwards", []Move{m}, []evm.Log{log(token, to, from, 5)}, []bool{false}},
		{"dirty topics", []Move{m}, []evm.Log{dirty}, []bool{false}},
		{"data that is no number", []Move{m}, []evm.Log{short, long, fewer, {}}, []bool{false}},
		{"two, two logs", []Move{m, m}, []evm.Log{good, good}, []bool{true, true}},
		{"two, one log, nobody knows which", []Move{m, m}, []evm.Log{good}, []bool{false, false}},
	} {
		if got := Match(c.moves, c.logs); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	one, two := m, m
	one.Method, one.Nonce, two.Method, two.Nonce = EIP3009, evm.Hash{1}, EIP3009, evm.Hash{2}
	usedOne := evm.Log{Address: token, Topics: []evm.Hash{usedTopic, topic(from), {1}}}
	if got := fmt.Sprint(Match([]Move{one, two}, []evm.Log{usedOne, good})); got != "[true false]" {
		t.Errorf("two of which one's nonce is logged: %s", got)
	}
	if got := fmt.Sprint(Match([]Move{one, two}, []evm.Log{usedOne})); got != "[false false]" {
		t.Errorf("a nonce without a transfer: %s", got)
	}
	usedTwo := evm.Log{Address: token, Topics: []evm.Hash{usedTopic, topic(from), {2}}}
	for _, logs := range [][]evm.Log{{usedOne, good, usedTwo, log(token, from, from, 0)}, {usedTwo, log(token, from, from, 0), usedOne, good}} {
		if one.Proven(logs) != true || two.Proven(logs) != false {
			t.Errorf("a nonce used for nothing beside a payment: %v, %v", one.Proven(logs), two.Proven(logs))
		}
	}
}

func TestMoveRefuses(t *testing.T) {
	t.Parallel()
	var v Verifier
	read := func(file, name string) Authorization {
		x := published(t, file, name)
		a, err := Read(x.p, x.r)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, c := range []struct {
		file, name string
		amount     uint64
		code       string
	}{
		{"x402", "exact_eip3009_v2", 9999, "invalid_exact_evm_payload_authorization_value_mismatch"},
		{"x402", "exact_eip3009_v2", 10001, "invalid_exact_evm_payload_authorization_value_mismatch"},
		{"x402", "exact_permit2_v2", 1, "permit2_amount_mismatch"},
		{"x402", "upto_permit2_v2", 50001, "invalid_upto_evm_payload_settlement_exceeds_amount"},
		{"x402", "upto_permit2_v2", 0, "amount_invalid"},
		{"x402", "upto_permit2_v2", 1, ""},
		{"t402", "exact_legacy_v2", 1, "invalid_exact_evm_payload_authorization_value"},
	} {
		if _, err := v.Move(read(c.file, c.name), money.Units(c.amount)); codeOf(err) != c.code {
			t.Errorf("%s with %d: %v, want %s", c.name, c.amount, err, c.code)
		}
	}
	if _, err := v.Move(Authorization{Scheme: Scheme}, money.Amount{}); codeOf(err) != "unsupported_payload_type" {
		t.Errorf("no method: %v", err)
	}
	// Nobody calls a factory that is not allowed, even for a payment that needs it.
	a := read("x402", "exact_eip3009_v2")
	a.Signature = append(evm.EncodeArgs(addressArg(evm.Address{9}), evm.BytesArg(nil), evm.BytesArg([]byte{1})), wrapSuffix...)
	if m, err := v.Move(a, a.Amount); err != nil || len(m.Before) != 0 {
		t.Errorf("a factory that is not allowed: %+v, %v", m.Before, err)
	}
	upto := read("x402", "upto_permit2_v2")
	if m, err := v.Move(upto, upto.Amount); err != nil || m.Shared || m.Sender != upto.Facilitator {
		t.Errorf("an upto that anybody may send: %+v, %v", m, err)
	}
	legacy := read("t402", "exact_legacy_v2")
	if m, err := v.Move(legacy, legacy.Amount); err != nil || m.Shared || m.Sender != legacy.Spender {
		t.Errorf("a legacy payment that anybody may send: %+v, %v", m, err)
	}
}

func TestProbeToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	usdc := network.Token{Symbol: "USDC", Address: devchain.TestDollar, Decimals: 6, Name: "Test Dollar", Version: "2", EIP3009: true, EIP2612: true}
	usdt := network.Token{Symbol: "USDT", Address: devchain.TestTether, Decimals: 6}
	for _, c := range []struct {
		name   string
		token  network.Token
		change func(*network.Token)
		words  string // of the refusal
	}{
		{"as it is", usdc, func(*network.Token) {}, ""},
		{"token without signatures", usdt, func(*network.Token) {}, ""},
		{"no contract", usdc, func(t *network.Token) { t.Address = evm.Address{1} }, "no contract is there"},
		{"not a token", usdc, func(t *network.Token) { t.Address = Multicall3 }, "does not say its decimals"},
		{"decimals", usdc, func(t *network.Token) { t.Decimals = 18 }, "it has 6 decimals, not 18"},
		{"name", usdc, func(t *network.Token) { t.Name = "USD Coin" }, `it calls itself "Test Dollar" version "2"`},
		{"version", usdc, func(t *network.Token) { t.Version = "1" }, `it calls itself "Test Dollar" version "2"`},
		{"EIP-3009 that is not there", usdt, func(t *network.Token) { t.Name, t.Version, t.EIP3009 = "Test Tether", "1", true }, "does not say its signing domain"},
	} {
		token := c.token
		c.change(&token)
		err := ProbeToken(t.Context(), w.client, token)
		if want := map[bool]string{true: "", false: "chain_mismatch"}[c.words == ""]; codeOf(err) != want || err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	down := &counting{Chain: w.client}
	for up := int32(0); up < 3; up++ {
		down.down.Store(up)
		if err := ProbeToken(t.Context(), down, usdc); !errors.Is(err, errDown) || strings.HasPrefix(codeOf(err), "chain_mismatch") {
			t.Errorf("a chain that stops after %d answers: %v", up, err)
		}
	}
}

// refusal is a contract's refusal as a chain reports it.
type refusal struct {
	data   []byte
	reason string
}

func (r refusal) Error() string        { return "refused: " + r.reason }
func (r refusal) RevertData() []byte   { return r.data }
func (r refusal) RevertReason() string { return r.reason }

func TestRevertedNamesTheReason(t *testing.T) {
	t.Parallel()
	text := func(s string) []byte { return evm.EncodeCall(selError, evm.BytesArg([]byte(s))) }
	custom := func(signature string) []byte { s := evm.Selector(signature); return s[:] }
	transfer, permit, cap := Authorization{Scheme: Scheme, Method: EIP3009}, Authorization{Scheme: Scheme, Method: Permit2}, Authorization{Scheme: UptoScheme, Method: Permit2}
	for _, c := range []struct {
		a    Authorization
		err  refusal
		code string
	}{
		{transfer, refusal{data: text("FiatTokenV2: authorization is expired")}, "invalid_exact_evm_payload_authorization_valid_before"},
		{transfer, refusal{data: text("FiatTokenV2: authorization is not yet valid")}, "invalid_exact_evm_payload_authorization_valid_after"},
		{transfer, refusal{data: text("FiatTokenV2: authorization is used or canceled")}, "invalid_exact_evm_nonce_already_used"},
		{transfer, refusal{data: text("FiatTokenV2: invalid signature")}, "invalid_exact_evm_signature"},
		{transfer, refusal{data: text("ERC20: transfer amount exceeds balance")}, "invalid_exact_evm_insufficient_balance"},
		{transfer, refusal{data: custom("AuthorizationUsedOrCanceled(address,bytes32)")}, "invalid_exact_evm_nonce_already_used"},
		{transfer, refusal{reason: "execution reverted: FiatTokenV2: authorization is used or canceled"}, "invalid_exact_evm_nonce_already_used"},
		{transfer, refusal{data: text("Pausable: paused")}, "invalid_exact_evm_transaction_failed"},
		{transfer, refusal{}, "invalid_exact_evm_transaction_failed"},
		{permit, refusal{data: custom("Permit2612AmountMismatch()")}, "permit2_2612_amount_mismatch"},
		{permit, refusal{data: custom("InvalidAmount()")}, "permit2_invalid_amount"},
		{permit, refusal{data: custom("InvalidDestination()")}, "permit2_invalid_destination"},
		{permit, refusal{data: custom("InvalidOwner()")}, "permit2_invalid_owner"},
		{permit, refusal{data: custom("PaymentTooEarly()")}, "permit2_payment_too_early"},
		{permit, refusal{data: custom("InvalidSigner()")}, "invalid_permit2_signature"},
		{permit, refusal{data: custom("SignatureExpired(uint256)")}, "invalid_permit2_signature"},
		{permit, refusal{data: custom("InvalidNonce()")}, "permit2_invalid_nonce"},
		{permit, refusal{data: text("TRANSFER_FROM_FAILED")}, "invalid_exact_evm_transaction_failed"},
		{cap, refusal{data: custom("AmountExceedsPermitted()")}, "upto_amount_exceeds_permitted"},
		{cap, refusal{data: custom("UnauthorizedFacilitator()")}, "upto_unauthorized_facilitator"},
		{cap, refusal{data: text("TRANSFER_FROM_FAILED")}, "invalid_upto_evm_transaction_failed"},
		{Authorization{Scheme: LegacyScheme, Method: Legacy}, refusal{}, "settlement_failed"},
	} {
		if got := codeOf(c.a.Reverted(fmt.Errorf("send: %w", c.err))); got != c.code {
			t.Errorf("%s, %x %s: %s, want %s", c.a.Scheme, c.err.data, c.err.reason, got, c.code)
		}
	}
	if err := transfer.Reverted(errDown); err != errDown {
		t.Errorf("a chain that is down: %v", err)
	}
}
