package exact

import (
	"log/slog"
	"sync/atomic"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Authorization is a signed transfer. Its fields are what somebody says: [Authorization.Check] and
// [Authorization.Signed], or [Verifier.Verify], say what it is worth.
type Authorization struct {
	Scheme  string // Scheme, UptoScheme or LegacyScheme
	Method  Method
	ChainID uint64
	Asset   evm.Address
	From    evm.Address  // who pays
	To      evm.Address  // who is paid
	Amount  money.Amount // what moves; for upto the most that may move

	// ValidAfter and ValidBefore bound when it can be carried out, Unix seconds. With Permit2 they are witness.validAfter
	// and the deadline, with a legacy authorization the facilitator keeps them.
	ValidAfter, ValidBefore uint64

	Nonce       evm.Hash    // with Permit2 the big-endian number
	Spender     evm.Address // x402's proxy with Permit2, the facilitator's account with a legacy authorization; otherwise zero
	Facilitator evm.Address // who alone may settle an upto; otherwise zero

	Name, Version string // the token's EIP-712 domain, as the offer says; not signed with Permit2

	// Signature is as it was sent: 65 bytes of a key, or whatever a contract account takes, perhaps wrapped by ERC-6492.
	Signature []byte

	// Permit and Approval let Permit2 move the token in the first place, at the facilitator's cost; nil without.
	Permit   *Permit
	Approval *Approval

	// Extensions that ask for either and cannot be read.
	permitErr, approvalErr error

	// What was recovered of it last, shared by the copies of what [Read] returned; nil: nothing is kept.
	recovered *atomic.Pointer[recovered]
}

// recovered is a signature of which it is known that an account's key made it. Recovering costs more than all other checks
// together, and who verifies and then settles would do it twice.
type recovered struct {
	digest    evm.Hash
	signature evm.Signature
	signer    evm.Address
}

// Permit is an allowance for Permit2 by signature (EIP-2612): the extension eip2612GasSponsoring.
type Permit struct {
	From, Asset, Spender    evm.Address
	Amount, Nonce, Deadline money.Amount // deadline in Unix seconds
	Signature               []byte
}

// Approval is an allowance for Permit2 as a transaction that the payer signed and somebody else broadcasts: the
// extension erc20ApprovalGasSponsoring.
type Approval struct {
	From, Asset, Spender evm.Address
	Amount               money.Amount
	Raw                  []byte // the signed transaction
}

var (
	transferType = typeHash("TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)")
	legacyType   = typeHash("LegacyTransferAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce,address spender)")
	permitType   = typeHash("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)")

	tokenPermissionsType = typeHash(tokenPermissions)
	exactWitnessType     = typeHash(exactWitness)
	uptoWitnessType      = typeHash(uptoWitness)
	exactPermitType      = typeHash(permitWitness + tokenPermissions + exactWitness)
	uptoPermitType       = typeHash(permitWitness + tokenPermissions + uptoWitness)

	// Permit2's domain has no version.
	permit2DomainType = typeHash("EIP712Domain(string name,uint256 chainId,address verifyingContract)")
	permit2Name       = typeHash("Permit2")
)

const (
	permitWitness    = "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)"
	tokenPermissions = "TokenPermissions(address token,uint256 amount)"
	exactWitness     = "Witness(address to,uint256 validAfter)"
	uptoWitness      = "Witness(address to,address facilitator,uint256 validAfter)"
)

func typeHash(text string) evm.Hash { return evm.Keccak256([]byte(text)) }

// hashWords is a hashStruct, or any keccak256 of ABI words.
func hashWords(first evm.Hash, words ...[32]byte) evm.Hash {
	b := make([]byte, 0, 32*(1+len(words)))
	b = append(b, first[:]...)
	for _, w := range words {
		b = append(b, w[:]...)
	}
	return evm.Keccak256(b)
}

func (a Authorization) tokenSeparator() evm.Hash {
	return evm.Domain{Name: a.Name, Version: a.Version, ChainID: a.ChainID, VerifyingContract: &a.Asset}.Separator()
}

// Digest returns what the payer signs (EIP-712).
func (a Authorization) Digest() evm.Hash {
	after, before := evm.WordUint64(a.ValidAfter), evm.WordUint64(a.ValidBefore)
	switch a.Method {
	case Permit2:
		permitted := hashWords(tokenPermissionsType, a.Asset.Word(), a.Amount.Word())
		full, witness := exactPermitType, hashWords(exactWitnessType, a.To.Word(), after)
		if a.Scheme == UptoScheme {
			full, witness = uptoPermitType, hashWords(uptoWitnessType, a.To.Word(), a.Facilitator.Word(), after)
		}
		separator := hashWords(permit2DomainType, permit2Name, evm.WordUint64(a.ChainID), Permit2Address.Word())
		return evm.TypedDigest(separator, hashWords(full, permitted, a.Spender.Word(), a.Nonce, before, witness))
	case Legacy:
		return evm.TypedDigest(a.tokenSeparator(),
			hashWords(legacyType, a.From.Word(), a.To.Word(), a.Amount.Word(), after, before, a.Nonce, a.Spender.Word()))
	}
	return evm.TypedDigest(a.tokenSeparator(), hashWords(transferType, a.From.Word(), a.To.Word(), a.Amount.Word(), after, before, a.Nonce))
}

// Digest returns what the owner signs, under the domain of the token that the authorization moves.
func (p Permit) Digest(a Authorization) evm.Hash {
	return evm.TypedDigest(a.tokenSeparator(),
		hashWords(permitType, p.From.Word(), p.Spender.Word(), p.Amount.Word(), p.Nonce.Word(), p.Deadline.Word()))
}

const (
	idTag       = "FARTHING_AUTHORIZATION_V1"
	legacyIDTag = "FARTHING_LEGACY_AUTHORIZATION_V1"
)

// ID names the payment by what the chain carries out at most once: keccak256 of the tag FARTHING_AUTHORIZATION_V1 and
// four ABI words, the chain id, the contract that keeps the nonce (the token, or Permit2), the payer and the nonce. Two
// payments of one ID exclude each other, whatever else they say. No contract keeps the nonces of legacy authorizations, so
// they have a tag of their own (FARTHING_LEGACY_AUTHORIZATION_V1) and whoever settles them has to keep their IDs.
func (a Authorization) ID() evm.Hash {
	tag, contract := idTag, a.Asset
	switch a.Method {
	case Permit2:
		contract = Permit2Address
	case Legacy:
		tag = legacyIDTag
	}
	chain, slot, from := evm.WordUint64(a.ChainID), contract.Word(), a.From.Word()
	return evm.Keccak256([]byte(tag), chain[:], slot[:], from[:], a.Nonce[:])
}

// LogValue shows no signature: it is money for whoever may bring it to the chain.
func (a Authorization) LogValue() slog.Value {
	return slog.GroupValue(slog.String("scheme", a.Scheme), slog.String("method", string(a.Method)), slog.Uint64("chain", a.ChainID),
		slog.Any("asset", a.Asset), slog.Any("from", a.From), slog.Any("to", a.To), slog.String("amount", a.Amount.String()),
		slog.String("id", a.ID().Short()))
}
