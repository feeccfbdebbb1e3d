package facilitator_test

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/facilitator"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// account is a contract account whose owner is a key, as machine code: isValidSignature takes what ecrecover finds to be
// signed by the owner. It is where the deterministic deployer puts it.
type account struct {
	owner   *evm.PrivateKey
	address evm.Address
	data    []byte // of the call of the deployer that makes it
}

func newAccount(t *testing.T, owner *evm.PrivateKey) account {
	t.Helper()
	address := owner.Address()
	part := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	code := slices.Concat(part("60043560005260a43560001a602052606435604052608435606052602060806080600060015afa5060805173"), address[:],
		part("1460495760006000fd5b631626ba7e60e01b60005260206000f3"))
	init := slices.Concat([]byte{0x61, byte(len(code) >> 8), byte(len(code))}, part("80600c6000396000f3"), code)
	salt, hash := evm.Hash{7}, evm.Keccak256(init)
	h := evm.Keccak256([]byte{0xff}, exact.Deployer[:], salt[:], hash[:])
	return account{owner, evm.Address(h[12:]), append(salt[:], init...)}
}

// pay signs a payment of the account. Of one that is not there yet the signature says how to make it (ERC-6492).
func (a account) pay(w *world, r x402.Requirements, there bool) x402.Payment {
	w.Helper()
	p, err := exact.Pay(w.Context(), a.owner, r, nonce(), w.chain.Time())
	if err != nil {
		w.Fatal(err)
	}
	p.From = a.address
	sig, err := a.owner.Sign(w.Context(), p.Digest())
	if err != nil {
		w.Fatal(err)
	}
	p.Signature = append(sig[:], 0) // 66 bytes: no key's signature
	if !there {
		deployer := exact.Deployer.Word()
		p.Signature = append(evm.EncodeArgs(evm.WordArg(deployer), evm.BytesArg(a.data), evm.BytesArg(p.Signature)), bytes.Repeat([]byte{0x64, 0x92}, 16)...)
	}
	return w.payment(p, r)
}

func TestContractAccountsPay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{network: func(c *facilitator.NetworkConfig) { c.Factories = []evm.Address{exact.Deployer} }})
	there, coming := newAccount(t, payer(0)), newAccount(t, payer(1))
	faucet := devchain.Accounts()[9]
	w.send(faucet, chain.Mint(devchain.TestDollar, there.address, money.Units(5_000)), chain.Mint(devchain.TestDollar, coming.address, money.Units(5_000)),
		evm.Call{To: exact.Deployer, Data: there.data})
	r := terms(500)
	w.accepted(there.pay(w, r, true), r)

	p := coming.pay(w, r, false)
	s := w.accepted(p, r)
	if code, err := w.client.Code(t.Context(), coming.address); err != nil || len(code) == 0 {
		t.Errorf("the account is not deployed: %v", err)
	}
	if again := w.settle(p, r); again.Transaction != s.Transaction {
		t.Errorf("again: %+v", again)
	}
	w.accepted(coming.pay(w, r, true), r) // it is there now
	if got := w.dollars(payee); got != 1500 {
		t.Errorf("%d units moved, want 1500", got)
	}
	forged := there.pay(w, r, true)
	forged.Payload = there.pay(w, terms(400), true).Payload
	if v := w.verify(forged, r); v.IsValid {
		t.Error("a signature of another payment was taken")
	}
}

// Nobody's factory is called unless the operator named it.
func TestAFactoryThatNobodyNamedIsNotCalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	coming := newAccount(t, payer(1))
	w.send(devchain.Accounts()[9], chain.Mint(devchain.TestDollar, coming.address, money.Units(5_000)))
	r := terms(500)
	p := coming.pay(w, r, false)
	if v := w.verify(p, r); v.IsValid || v.InvalidReason != "eip6492_factory_not_allowed" {
		t.Errorf("verified: %+v", v)
	}
	if s := w.settle(p, r); s.Success || s.ErrorReason != "eip6492_factory_not_allowed" {
		t.Errorf("settled: %+v", s)
	}
	if code, err := w.client.Code(t.Context(), coming.address); err != nil || len(code) != 0 {
		t.Errorf("the account is deployed: %x, %v", code, err)
	}
}
