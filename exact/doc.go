// Package exact is the ways of paying over HTTP 402 in which the payer signs a transfer of a token and somebody else
// brings it to the chain: the x402 schemes "exact" (EIP-3009 and Permit2) and "upto" (Permit2), and T402's
// "exact-legacy". It reads and writes their payloads, signs them, judges them, and says which calls settle them.
//
// A payer calls [Pay] and puts [Authorization.Payload] into its payment. A payee calls [Read] and
// [Authorization.Accept]. A facilitator has a [Verifier], which also asks the chain and whose [Verifier.Move] is what to
// send; [Match] then finds the transfers in the receipt.
//
// # Invariants
//
// An authorization moves exactly what its payer signed, or for upto at most that, to the address that it names: no other
// amount and no other address is ever put into a call. [Authorization.ID] names what the chain carries out once, however
// the payment and its signature are spelled.
//
// # Concurrency
//
// Values may be shared once made. A [Verifier] is safe for concurrent use. The package starts no goroutine, reads no
// clock, opens no file, and speaks to nothing but the [Chain] that it is given.
//
// # Compatibility
//
// Typed data, payloads, checks, their order and their codes are those of @x402/evm 2.27 and @t402/evm 2.2, and of the
// scheme documents where the packages do not differ from them. Deliberately stricter: a version-1 payment and an
// exact-legacy one of more than was asked for are refused as well, numbers have one spelling, times fit 64 bits.
package exact

import "github.com/farthing402/farthing/evm"

// The x402 names of these ways to pay.
const (
	Scheme       = "exact"
	UptoScheme   = "upto"
	LegacyScheme = "exact-legacy"
)

// Method says which contract carries out an authorization.
type Method string

// The methods. An offer names the first two in extra.assetTransferMethod, where none means EIP3009.
const (
	EIP3009 Method = "eip3009" // the token itself, by transferWithAuthorization
	Permit2 Method = "permit2" // Permit2, through x402's proxy for the scheme
	Legacy  Method = "legacy"  // the token, by transferFrom out of an allowance; the chain sees no signature
)

// Contracts that have one address on every chain.
var (
	Permit2Address = evm.MustAddress("0x000000000022D473030F116dDEE9F6B43aC78BA3")
	ExactProxy     = evm.MustAddress("0x402085c248EeA27D92E8b30b2C58ed07f9E20001")
	UptoProxy      = evm.MustAddress("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002")
	Multicall3     = evm.MustAddress("0xcA11bde05977b3631167028862bE2a173976CA11")
	Deployer       = evm.MustAddress("0x4e59b44847b379578588920cA78FbF26c0B4956C") // deterministic, by CREATE2
)
