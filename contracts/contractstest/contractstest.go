// Package contractstest holds compiled contracts for tests: a token that misbehaves as it is told, and wallets that sign by
// ERC-1271. Their sources are in contracts/test/dev.
package contractstest

import (
	"embed"

	"github.com/farthing402/farthing/contracts"
)

//go:embed artifacts/*.json
var files embed.FS

// The compiled contracts. Treat them as constants.
var (
	// HostileDollar is [contracts.TestDollar] with a mode, of [Mode], that says what a transfer does instead.
	HostileDollar = load("HostileDollar")

	// SmartWallet answers by ERC-1271 for one owner, which its constructor takes. As the code that an account delegates to
	// by EIP-7702 it answers for that account's own key.
	SmartWallet = load("SmartWallet")

	// StubbornWallet is [SmartWallet], except that it will not be sent native coin: it reverts, or after setHuge(true) answers
	// with 200,000 bytes.
	StubbornWallet = load("StubbornWallet")

	// WalletFactory creates wallets at addresses that are known before: createAccount(address owner, uint256 salt).
	WalletFactory = load("WalletFactory")
)

// Mode is what HostileDollar does when money should move. It is set by set(uint8 mode, uint256 number) or, in a genesis, in
// the lowest byte of slot 9 with the number in slot 10.
type Mode uint8

const (
	Honest    Mode = iota
	Fee            // number per cent of the value stay behind, and the event says what arrived
	HiddenFee      // the same, but the event says the whole value
	Silent         // nothing moves, nothing is logged, and the answer is true
	False          // nothing moves and the answer is false
	Liar           // nothing moves, but the right event is logged
	Stray          // the value goes to address number, and the event says so
	Less           // one unit less moves than was asked, and the event says so
	Burn           // uses all gas but a sixty-fourth, then reverts
	TwoFaced       // honest to whoever pays no gas price, as callers that simulate do; otherwise as Burn
	Reenter        // calls back once, as setReentry(address target, bytes data) said, before anything moves
	Twice          // logs the event twice
	Ban            // reverts for address number, whether it sends or is to receive
)

func load(name string) contracts.Artifact {
	text, err := files.ReadFile("artifacts/" + name + ".json")
	if err != nil {
		panic(err) // embedded at build time
	}
	return contracts.Parse(text)
}
