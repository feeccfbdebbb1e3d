// Package contracts embeds the compiled Solidity contracts: ABI, creation code and runtime code, as `npm run build`
// wrote them to artifacts/. It depends on the standard library only; whoever sends transactions packs them with the ABI.
//
// Most callers want [Vault] and [ClearingHouse]; [TestDollar] is money for development chains, and [Canonical] is what
// they carry besides, under the addresses of public chains. Tokens and wallets for tests are in package contractstest.
//
// # Deployment
//
// The contracts name each other in immutables, so a deployer predicts addresses from its own nonces: with next nonce n,
// Vault is created at n, ClearingHouse at n+1, Disputes at n+2 and Redemption at n+3. Constructor arguments, in order:
//
//   - Vault: address clearingHouse, address disputes, address redemption, address guardian (zero for nobody), uint64
//     withdrawalDelay (seconds; W of the specification), address[] stablecoins (each must have code)
//   - ClearingHouse: address vault, address operator, address recovery (zero for nobody), uint64 recoveryDelay
//     (seconds, shorter than every challenge window). The Vault must exist and name this address.
//   - all others: none, and no immutables either. Their runtime code can also be put in a genesis allocation or on a
//     running development node; the sources state the storage layouts.
//
// Then the operator calls, for every asset, ClearingHouse.setSchedule and, unless a bond of zero will do,
// ClearingHouse.setBondRule, and once Vault.registerKey. The addresses of Disputes and Redemption may have no code: then no
// cycle can be voided and no guarantee redeemed.
//
// # Overloads
//
// Some of 4Mica's functions exist with and without an asset. go-ethereum's abi package numbers such names by their order
// in the ABI, so callers should look a method up by its signature, as in "requestWithdrawal(address,uint256)". The same
// goes for what TestDollar accepts with a signature in three words and in one piece, and for Permit2's single and batch.
package contracts

import (
	"bytes"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

//go:embed artifacts/*.json
var files embed.FS

// The compiled contracts of a clearing house. Treat them as constants.
var (
	Vault         = load("Vault")
	ClearingHouse = load("ClearingHouse")
)

// Money for development chains. [TestDollar] has EIP-3009 and EIP-2612, and can be given another token's name; [TestTether]
// has neither and returns nothing.
var (
	TestDollar = load("TestDollar")
	TestTether = load("TestTether")
)

// ValidationRegistry keeps validators' answers on development chains; elsewhere an operator names the registries that it
// trusts.
var ValidationRegistry = load("ValidationRegistry")

// Contracts that public chains have already and development chains are given; [Canonical] says where. They share the
// interface of the public ones and nothing else: their code differs.
var (
	Permit2    = load("Permit2")
	ExactProxy = load("ExactProxy")
	UptoProxy  = load("UptoProxy")
	Multicall3 = load("Multicall3")
	Deployer   = load("Deployer") // by CREATE2
)

// Placed is a contract with the address that it has on every chain.
type Placed struct {
	Address  [20]byte
	Artifact Artifact
}

// Canonical returns the contracts that wallets, clients and facilitators expect at fixed addresses.
func Canonical() []Placed {
	return []Placed{
		place("000000000022D473030F116dDEE9F6B43aC78BA3", Permit2),
		place("402085c248EeA27D92E8b30b2C58ed07f9E20001", ExactProxy),
		place("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002", UptoProxy),
		place("cA11bde05977b3631167028862bE2a173976CA11", Multicall3),
		place("4e59b44847b379578588920cA78FbF26c0B4956C", Deployer),
	}
}

func place(address string, a Artifact) Placed {
	return Placed{[20]byte(unhex(a.Name, address)), a}
}

// Artifact is a compiled contract.
type Artifact struct {
	Name     string
	Compiler string
	ABI      json.RawMessage
	Bytecode []byte // creation code, to which the constructor's encoded arguments are appended
	Deployed []byte // runtime code, with zeros where immutables go

	immutables []span
}

type span struct {
	Start  int `json:"start"`
	Length int `json:"length"`
}

// Matches reports whether code, read from a chain, is this contract with any values for its immutables. It says
// nothing about those values: read them through their getters.
func (a Artifact) Matches(code []byte) bool {
	if len(code) != len(a.Deployed) {
		return false
	}
	masked := bytes.Clone(code)
	for _, s := range a.immutables {
		clear(masked[s.Start : s.Start+s.Length])
	}
	return bytes.Equal(masked, a.Deployed)
}

func load(name string) Artifact {
	text, err := files.ReadFile("artifacts/" + name + ".json")
	if err != nil {
		panic(err) // embedded at build time
	}
	return Parse(text)
}

// Parse reads an artifact as the build wrote it, and panics if it is none: artifacts are embedded at build time.
func Parse(text []byte) Artifact {
	var raw struct {
		Contract   string          `json:"contract"`
		Compiler   string          `json:"compiler"`
		ABI        json.RawMessage `json:"abi"`
		Bytecode   string          `json:"bytecode"`
		Deployed   string          `json:"deployedBytecode"`
		Immutables []span          `json:"immutableReferences"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		panic(fmt.Sprintf("artifact: %v", err))
	}
	return Artifact{
		Name: raw.Contract, Compiler: raw.Compiler, ABI: raw.ABI,
		Bytecode: unhex(raw.Contract, raw.Bytecode), Deployed: unhex(raw.Contract, raw.Deployed),
		immutables: raw.Immutables,
	}
}

func unhex(name, s string) []byte {
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		panic(fmt.Sprintf("artifact %s: %v", name, err))
	}
	return b
}
