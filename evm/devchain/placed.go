package devchain

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/farthing402/farthing/contracts"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/network"
)

// Money for demonstrations, on every development chain. Anybody can mint it, and each unit stands for a dollar.
var (
	// TestDollar has six decimals, EIP-3009 and EIP-2612, as USDC has.
	TestDollar = evm.MustAddress("0xFA12000000000000000000000000000000000001")

	// TestTether has six decimals and neither, and returns nothing, as USDT on Ethereum.
	TestTether = evm.MustAddress("0xFA12000000000000000000000000000000000002")
)

// Dollars is the balance of each token that each of [Accounts] starts with, in whole dollars.
const Dollars = 1_000_000

// Registered returns the tokens that package network has for a chain id: what a development chain with that id puts test
// money in the place of. An id that is not known there is an error.
func Registered(chainID uint64) ([]network.Token, error) {
	c, ok := network.ByID(chainID)
	if !ok {
		return nil, fmt.Errorf("no network is known with chain id %d, so no token either", chainID)
	}
	return c.Tokens, nil
}

// placed is a contract as it is put on a chain: no constructor runs.
type placed struct {
	address evm.Address
	name    string
	code    []byte
	storage map[evm.Hash]evm.Hash
	// public says that public chains, and some development nodes, have a contract with this interface there already.
	public bool
}

// everything returns what a development chain carries: the contracts of public chains, the test money, and test money in
// the place of tokens.
func everything(tokens []network.Token) []placed {
	var all []placed
	for _, c := range contracts.Canonical() {
		all = append(all, placed{address: c.Address, name: c.Artifact.Name, code: c.Artifact.Deployed, public: true})
	}
	owners := Accounts()
	dollar := token(network.Token{Symbol: "USDC", Address: TestDollar, Decimals: 6, EIP3009: true}, owners)
	tether := token(network.Token{Symbol: "USDT", Address: TestTether, Decimals: 6}, owners)
	dollar.name, tether.name = "test dollar", "test tether"
	all = append(all, dollar, tether)
	for _, t := range tokens {
		if slices.ContainsFunc(all, func(p placed) bool { return p.address == t.Address }) {
			continue // the development chain's own
		}
		all = append(all, token(t, owners))
	}
	return all
}

// Storage slots of the test money, as the sources state them.
const (
	slotBalanceOf   = 0
	slotTotalSupply = 2

	dollarName, dollarVersion, dollarSymbol, dollarDecimals = 5, 6, 7, 8
	tetherName, tetherSymbol, tetherDecimals                = 3, 4, 5
)

// token is test money with a token's names, as though it had been deployed and minted for its owners. A token that takes
// signatures of either kind becomes a test dollar, which takes both.
func token(t network.Token, owners []*evm.PrivateKey) placed {
	p := placed{address: t.Address, name: t.Symbol, storage: map[evm.Hash]evm.Hash{}}
	each := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(t.Decimals)), nil)
	each.Mul(each, big.NewInt(Dollars))
	p.storage[evm.WordUint64(slotTotalSupply)] = evm.Hash(common.BigToHash(new(big.Int).Mul(each, big.NewInt(int64(len(owners))))))
	for _, owner := range owners {
		key, slot := owner.Address().Word(), evm.WordUint64(slotBalanceOf)
		p.storage[evm.Keccak256(key[:], slot[:])] = evm.Hash(common.BigToHash(each))
	}
	if t.EIP3009 || t.EIP2612 {
		p.code = contracts.TestDollar.Deployed
		p.text(dollarName, t.Name)
		p.text(dollarVersion, t.Version)
		p.text(dollarSymbol, t.Symbol)
		p.storage[evm.WordUint64(dollarDecimals)] = evm.WordUint64(uint64(t.Decimals))
	} else {
		p.code = contracts.TestTether.Deployed
		p.text(tetherName, t.Name)
		p.text(tetherSymbol, t.Symbol)
		p.storage[evm.WordUint64(tetherDecimals)] = evm.WordUint64(uint64(t.Decimals))
	}
	return p
}

// text stores a string as Solidity does: up to 31 bytes with their length in the slot, longer ones beginning at the slot's
// hash. An empty one leaves the contract's default.
func (p placed) text(slot uint64, s string) {
	if s == "" {
		return
	}
	at := evm.Hash(evm.WordUint64(slot))
	if len(s) < 32 {
		var word evm.Hash
		copy(word[:], s)
		word[31] = byte(2 * len(s))
		p.storage[at] = word
		return
	}
	p.storage[at] = evm.WordUint64(2*uint64(len(s)) + 1)
	next := new(big.Int).SetBytes(common.Hash(evm.Keccak256(at[:])).Bytes())
	for rest := []byte(s); len(rest) > 0; next.Add(next, big.NewInt(1)) {
		var word evm.Hash
		rest = rest[copy(word[:], rest):]
		p.storage[evm.Hash(common.BigToHash(next))] = word
	}
}

// account is the contract as part of a genesis.
func (p placed) account() types.Account {
	storage := make(map[common.Hash]common.Hash, len(p.storage))
	for k, v := range p.storage {
		storage[common.Hash(k)] = common.Hash(v)
	}
	return types.Account{Code: p.code, Storage: storage, Balance: new(big.Int), Nonce: 1}
}
