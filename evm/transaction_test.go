package evm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
)

// signedTransaction is one that go-ethereum made.
func signedTransaction(t testing.TB, change func(*types.DynamicFeeTx)) (*types.Transaction, []byte, Address) {
	t.Helper()
	secret := Keccak256([]byte("cow"))
	key, err := crypto.ToECDSA(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	to := common.Address{1: 7, 19: 9}
	body := &types.DynamicFeeTx{
		ChainID: big.NewInt(84532), Nonce: 300, GasTipCap: big.NewInt(100_000_000), GasFeeCap: big.NewInt(1_000_000_000), Gas: 70_000,
		To: &to, Value: big.NewInt(0), Data: bytes.Repeat([]byte{0xcd}, 68),
	}
	if change != nil {
		change(body)
	}
	tx, err := types.SignNewTx(key, types.LatestSignerForChainID(body.ChainID), body)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := tx.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return tx, raw, Address(crypto.PubkeyToAddress(key.PublicKey))
}

func TestParseTransactionAsGoEthereum(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*types.DynamicFeeTx){
		"as wallets sign": nil,
		"first nonce":     func(b *types.DynamicFeeTx) { b.Nonce = 0 },
		"with value":      func(b *types.DynamicFeeTx) { b.Value = new(big.Int).Lsh(big.NewInt(3), 200) },
		"no data":         func(b *types.DynamicFeeTx) { b.Data = nil },
		"a byte":          func(b *types.DynamicFeeTx) { b.Data = []byte{1} },
		"much data":       func(b *types.DynamicFeeTx) { b.Data = make([]byte, 70_000) },
		"55 bytes":        func(b *types.DynamicFeeTx) { b.Data = make([]byte, 55) },
		"56 bytes":        func(b *types.DynamicFeeTx) { b.Data = make([]byte, 56) },
	} {
		want, raw, from := signedTransaction(t, change)
		got, err := ParseTransaction(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sender, err := got.Sender()
		if err != nil || sender != from {
			t.Errorf("%s: sender %s, %v", name, sender, err)
		}
		if got.ChainID != 84532 || got.Nonce != want.Nonce() || got.TipWei != want.GasTipCap().Uint64() || got.FeeWei != want.GasFeeCap().Uint64() ||
			got.Gas != want.Gas() || common.Address(got.To) != *want.To() || !bytes.Equal(got.Data, want.Data()) ||
			new(big.Int).SetBytes(got.Value[:]).Cmp(want.Value()) != 0 || common.Hash(got.Hash) != want.Hash() {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
}

func TestParseTransactionRefuses(t *testing.T) {
	t.Parallel()
	_, raw, from := signedTransaction(t, nil)
	refuse := func(name string, raw []byte) {
		t.Helper()
		if tx, err := ParseTransaction(raw); !errors.Is(err, ErrTransaction) {
			t.Errorf("%s is read as %+v, %v", name, tx, err)
		}
	}
	for cut := range raw {
		refuse("one that is cut off", raw[:cut])
	}
	refuse("one with something behind", append(bytes.Clone(raw), 0))
	for _, kind := range []byte{0, 1, 3, 4, 0xf8} {
		refuse("another kind", append([]byte{kind}, raw[1:]...))
	}
	_, creation, _ := signedTransaction(t, func(b *types.DynamicFeeTx) { b.To = nil })
	refuse("one that creates a contract", creation)
	_, listed, _ := signedTransaction(t, func(b *types.DynamicFeeTx) { b.AccessList = types.AccessList{{}} })
	refuse("one with an access list", listed)
	_, unpayable, _ := signedTransaction(t, func(b *types.DynamicFeeTx) { b.GasFeeCap = new(big.Int).Lsh(big.NewInt(1), 64) })
	refuse("a fee past 64 bits", unpayable)

	// Whatever byte is altered, it is no longer the same sender's transaction.
	for i := range raw {
		altered := bytes.Clone(raw)
		altered[i] ^= 1
		tx, err := ParseTransaction(altered)
		if err != nil {
			continue
		}
		if sender, err := tx.Sender(); err == nil && sender == from {
			t.Errorf("byte %d is not signed", i)
		}
	}
}

func FuzzParseTransaction(f *testing.F) {
	_, raw, _ := signedTransaction(f, nil)
	f.Add(raw)
	approval, _ := hex.DecodeString("02f8b383014a34058405f5e10084773594008301117094036cbd53842c5426634e7929541ec2318f3dcf7e80b844095ea7b3000000000000000000000000000000000022d473030f116ddee9f6b43ac78ba3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffc080a0dd157f5d1440c814ba8836092879f20266a0d51533c65bb8e0bea4aa22ed2e57a0296aa4c69f2e6e3041dd8a7753142376b0243883b351e3da172fc357ca192666")
	f.Add(approval)
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := ParseTransaction(raw)
		if err != nil {
			return
		}
		// What we read go-ethereum reads too, as the same transaction.
		want := new(types.Transaction)
		if err := want.UnmarshalBinary(raw); err != nil {
			t.Fatalf("only we read %x: %v", raw, err)
		}
		if common.Hash(got.Hash) != want.Hash() || got.Nonce != want.Nonce() || !bytes.Equal(got.Data, want.Data()) || common.Address(got.To) != *want.To() {
			t.Errorf("%x is read as %+v", raw, got)
		}
		theirs, err := types.Sender(types.LatestSignerForChainID(want.ChainId()), want)
		ours, ourErr := got.Sender()
		if (err == nil) != (ourErr == nil) || err == nil && common.Address(ours) != theirs {
			t.Errorf("%x is of %s, %v and %s, %v", raw, theirs, err, ours, ourErr)
		}
	})
}
