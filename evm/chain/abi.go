package chain

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"

	"github.com/farthing402/farthing/contracts"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// The interfaces of the embedded contracts.
var (
	vaultABI  = parsed(contracts.Vault)
	houseABI  = parsed(contracts.ClearingHouse)
	dollarABI = parsed(contracts.TestDollar)
	askedABI  = parsed(contracts.ValidationRegistry)
	knownABIs = []abi.ABI{vaultABI, houseABI, dollarABI, askedABI}
)

func parsed(a contracts.Artifact) abi.ABI {
	parsed, err := abi.JSON(bytes.NewReader(a.ABI))
	if err != nil {
		panic(fmt.Sprintf("interface of %s: %v", a.Name, err)) // the artifact is embedded
	}
	return parsed
}

// pack encodes a call of a method, named with its argument types where several share a name. The arguments are ours and
// fit the artifact, as the tests show, so a mismatch is a programming error.
func pack(contract abi.ABI, name string, args ...any) []byte {
	method := methodOf(contract, name)
	data, err := method.Inputs.Pack(args...)
	if err != nil {
		panic(fmt.Sprintf("pack %s: %v", name, err))
	}
	return append(bytes.Clone(method.ID), data...)
}

func methodOf(contract abi.ABI, name string) abi.Method {
	for _, method := range contract.Methods {
		if method.Sig == name || method.RawName == name && !strings.Contains(name, "(") {
			return method
		}
	}
	panic("no method " + name)
}

// revertReason names what a contract refused with, from the errors that our contracts declare and Solidity's own two.
func revertReason(data []byte) string {
	if text, err := abi.UnpackRevert(data); err == nil {
		return clip(text)
	}
	if len(data) < 4 {
		return "no reason given"
	}
	selector := [4]byte(data[:4])
	for _, contract := range knownABIs {
		if known, err := contract.ErrorByID(selector); err == nil {
			values, err := known.Inputs.Unpack(data[4:])
			if err != nil {
				return known.Name + "(?)"
			}
			return known.Name + "(" + shown(values) + ")"
		}
	}
	return "0x" + hex.EncodeToString(selector[:])
}

func shown(values []any) string {
	texts := make([]string, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case common.Address:
			texts[i] = evm.Address(v).String()
		case [32]byte:
			texts[i] = evm.Hash(v).String()
		default:
			texts[i] = fmt.Sprint(v)
		}
	}
	return strings.Join(texts, ", ")
}

// Conversions to and from the types of go-ethereum, which stay inside this package.

func bigOf(a money.Amount) *big.Int {
	word := a.Word()
	return new(big.Int).SetBytes(word[:])
}

func amountOf(v *big.Int) money.Amount {
	a, err := money.AmountFromBytes(v.Bytes())
	if err != nil {
		panic(err) // ABI words have 32 bytes
	}
	return a
}

// Points as go-ethereum packs tuples: fields named after the interface's.

type g1Point struct{ XA, XB, YA, YB [32]byte }

type g2Point struct{ XC0A, XC0B, XC1A, XC1B, YC0A, YC0B, YC1A, YC1B [32]byte }

func keyTuple(k Key) g1Point { return g1Point{k[0], k[1], k[2], k[3]} }

func proofTuple(p KeyProof) g2Point {
	return g2Point{p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]}
}

func words(hashes []evm.Hash) [][32]byte {
	out := make([][32]byte, len(hashes))
	for i, h := range hashes {
		out[i] = h
	}
	return out
}

func addresses(list []evm.Address) []common.Address {
	out := make([]common.Address, len(list))
	for i, a := range list {
		out[i] = common.Address(a)
	}
	return out
}
