package desk_test

import (
	"slices"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
	"github.com/farthing402/farthing/facilitator/desk"
)

// Tokens that an operator may have listed without looking, as machine code: each answers every call in its one way.
var (
	// says yes and does nothing
	silentToken = []byte{0x60, 0x20, 0x60, 0, 0xf3}
	// logs the authorization and a transfer of one unit less
	dearToken = slices.Concat(
		[]byte{0x60, 0xa4, 0x35, 0x60, 0x04, 0x35, 0x7f}, topic("AuthorizationUsed(address,bytes32)"), []byte{0x60, 0, 0x60, 0, 0xa3},
		[]byte{0x60, 1, 0x60, 0x44, 0x35, 0x03, 0x60, 0, 0x52},
		[]byte{0x60, 0x24, 0x35, 0x60, 0x04, 0x35, 0x7f}, topic("Transfer(address,address,uint256)"), []byte{0x60, 0x20, 0x60, 0, 0xa3},
		[]byte{0x60, 0x20, 0x60, 0, 0xf3},
	)
	// burns all gas that it gets, and fails
	invalidToken = []byte{0xfe}
	// never comes to an end
	endlessToken = []byte{0x5b, 0x60, 0, 0x56}
	// burns about two million gas and says yes: PUSH3 30000, then counts down to zero
	hungryToken = []byte{0x62, 0x00, 0x75, 0x30, 0x5b, 0x60, 1, 0x90, 0x03, 0x80, 0x60, 4, 0x57, 0x60, 0x20, 0x60, 0, 0xf3}
)

func topic(signature string) []byte {
	h := evm.Keccak256([]byte(signature))
	return h[:]
}

// place puts code on the chain and lists it as a token.
func (w *world) place(code []byte) evm.Address {
	w.Helper()
	key := newKey(w.T)
	w.by(payer(4), evm.Call{To: key.Address(), Value: [32]byte{22: 1}})
	init := slices.Concat([]byte{0x61, byte(len(code) >> 8), byte(len(code)), 0x80, 0x60, 0x0c, 0x60, 0, 0x39, 0x60, 0, 0xf3}, code)
	w.by(key, evm.Call{Data: init, GasLimit: 300_000})
	from := key.Address()
	at := evm.Keccak256([]byte{0xd6, 0x94}, from[:], []byte{0x80}) // of the account's first transaction
	token := evm.Address(at[12:])
	if got, err := w.client.Code(w.Context(), token); err != nil || string(got) != string(code) {
		w.Fatalf("code at %s: %x, %v", token, got, err)
	}
	w.config.Tokens = append(w.config.Tokens, token)
	w.start()
	return token
}

func TestATokenThatLiesIsFoundOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		code  []byte
		want  string
		sends uint64
	}{
		{"it does nothing and says yes", silentToken, "invalid_exact_evm_transfer_event_mismatch", 1},
		{"it keeps a fee", dearToken, "invalid_exact_evm_transfer_event_mismatch", 1},
		{"it burns all gas and fails", invalidToken, "invalid_exact_evm_transaction_simulation_failed", 0},
		{"it never comes to an end", endlessToken, "gas_too_high", 0},
		{"it burns more gas than is paid for", hungryToken, "gas_too_high", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			token := w.place(tt.code)
			a := w.transferOf(token, payer(0), 500, 1)
			w.ask(a)
			w.settle()
			if s := w.want(a, desk.Failed, tt.want); w.sent() != tt.sends || s.TotalCost().IsZero() != (tt.sends == 0) {
				t.Errorf("%d transactions, %s wei", w.sent(), s.TotalCost())
			}
		})
	}
}

// In company a bad token costs its neighbours nothing: they are settled as if it were not there.
func TestABadTokenInCompany(t *testing.T) {
	t.Parallel()
	for _, code := range [][]byte{silentToken, dearToken, invalidToken, endlessToken, hungryToken} {
		w := newWorld(t, nil)
		token := w.place(code)
		bad := w.transferOf(token, payer(0), 500, 1)
		good := []desk.Ask{w.transfer(payer(1), 5, 1), w.transfer(payer(2), 5, 1), w.transfer(payer(3), 5, 1)}
		w.ask(good[0])
		w.ask(bad)
		w.ask(good[1])
		w.ask(good[2])
		w.settle()
		for _, a := range good {
			w.want(a, desk.Settled, "")
		}
		if s := w.find(bad); s.State != desk.Failed || w.dollars(payee) != 15 {
			t.Errorf("code %x: the bad one is %s, %d units moved", code, s.State, w.dollars(payee))
		}
	}
}

// A payer whose account has code could burn the gas of its neighbours in its signature check, so it never has any.
func TestAnAccountWithCodeSettlesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	contract := w.place(silentToken) // any code
	a := w.transfer(payer(0), 5, 1)
	a.Payer = contract
	if s := w.ask(a); s.Shared {
		t.Error("it may share a transaction")
	}
	if s := w.ask(w.transferOf(devchain.TestDollar, payer(0), 5, 2)); !s.Shared {
		t.Error("an account with a key may not share a transaction")
	}
}
