package chain

import (
	"encoding/hex"
	"slices"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/farthing402/farthing/evm"
)

// A contract signs by saying so, and in no other way; one that computes without end is no way to keep us.
func TestContractsThatSign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const magic = "631626ba7e60e01b600052"
	contracts := []struct {
		name, code string
		want       bool
	}{
		{"says yes", magic + "60206000f3", true},
		{"says something else", "600160005260206000f3", false},
		{"says the word and more", "631626ba7e60e01b600117600052" + "60206000f3", false},
		{"says less than a word", magic + "60046000f3", false},
		{"says nothing", "00", false},
		{"refuses", "60006000fd", false},
		{"never ends", "5b600056", false},
	}
	from := key(3)
	nonce, err := w.client.Nonce(t.Context(), from.Address())
	if err != nil {
		t.Fatal(err)
	}
	var calls []evm.Call
	for _, c := range contracts {
		code, err := hex.DecodeString(c.code)
		if err != nil {
			t.Fatal(err)
		}
		// Returns the code behind itself.
		calls = append(calls, evm.Call{GasLimit: 200_000, Data: slices.Concat([]byte{0x61, 0, byte(len(code))}, []byte("\x80\x60\x0c\x60\x00\x39\x60\x00\xf3"), code)})
	}
	w.send(from, calls...)
	ask := func(chainID uint64, account evm.Address) (bool, error) {
		return w.client.ValidSignature(t.Context(), chainID, account, evm.Hash{1}, []byte("signature"))
	}
	for i, c := range contracts {
		address := evm.Address(crypto.CreateAddress(common.Address(from.Address()), nonce+uint64(i)))
		if code, err := w.client.Code(t.Context(), address); err != nil || hex.EncodeToString(code) != c.code {
			t.Fatalf("%s: code %x, %v", c.name, code, err)
		}
		if got, err := ask(w.client.ChainID(), address); err != nil || got != c.want {
			t.Errorf("a contract that %s: %v, %v", c.name, got, err)
		}
	}
	first := evm.Address(crypto.CreateAddress(common.Address(from.Address()), nonce))
	if got, err := ask(w.client.ChainID()+1, first); err != nil || got {
		t.Errorf("on another chain: %v, %v", got, err)
	}
	if got, err := ask(w.client.ChainID(), key(4).Address()); err != nil || got {
		t.Errorf("an account without code: %v, %v", got, err)
	}
	w.chain.Close()
	if _, err := ask(w.client.ChainID(), first); err == nil {
		t.Error("a chain that is gone has answered")
	}
}
