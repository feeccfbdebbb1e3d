// Package contracts embeds the compiled Solidity contracts: ABI, creation code and runtime code, as `npm run build`
// wrote them to artifacts/. It depends on the standard library only; whoever sends transactions packs them with the ABI.
//
// Most callers want [Vault] and [ClearingHouse]; [TestDollar] is money for development chains.
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
//   - TestDollar: none. Its runtime code can also be put in a genesis allocation; the source states the storage layout.
//
// Then the operator calls, for every asset, ClearingHouse.setSchedule and, unless a bond of zero will do,
// ClearingHouse.setBondRule, and once Vault.registerKey. The addresses of Disputes and Redemption may have no code: then no
// cycle can be voided and no guarantee redeemed.
//
// # Overloads
//
// Some of 4Mica's functions exist with and without an asset. go-ethereum's abi package numbers such names by their order
// in the ABI, so callers should look a method up by its signature, as in "requestWithdrawal(address,uint256)".
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

// The compiled contracts. Treat them as constants.
var (
	Vault         = load("Vault")
	ClearingHouse = load("ClearingHouse")
	TestDollar    = load("TestDollar")
)

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
	var raw struct {
		Contract   string          `json:"contract"`
		Compiler   string          `json:"compiler"`
		ABI        json.RawMessage `json:"abi"`
		Bytecode   string          `json:"bytecode"`
		Deployed   string          `json:"deployedBytecode"`
		Immutables []span          `json:"immutableReferences"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		panic(fmt.Sprintf("artifact %s: %v", name, err))
	}
	return Artifact{
		Name: raw.Contract, Compiler: raw.Compiler, ABI: raw.ABI,
		Bytecode: unhex(name, raw.Bytecode), Deployed: unhex(name, raw.Deployed),
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
