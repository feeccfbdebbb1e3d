package guarantee

import (
	"encoding/binary"
	"strconv"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Deployment is one vault with its clearing house on one chain. A signature or certificate made for one is worthless
// in every other.
type Deployment struct {
	ChainID uint64
	// Name and Version are of the claims' EIP-712 domain, which names no contract. Name therefore carries the vault's
	// address ("4Mica 0x…"), or two deployments on one chain would share signatures. Parties read it from the clearing
	// house's public parameters.
	Name, Version        string
	Vault, ClearingHouse evm.Address
}

// ClaimsSeparator returns the EIP-712 domain separator under which payers sign.
func (d Deployment) ClaimsSeparator() evm.Hash {
	return evm.Domain{Name: d.Name, Version: d.Version, ChainID: d.ChainID}.Separator()
}

// CertificateDomain returns the first field of every certificate of version 1, see [Deployment.DomainOf].
func (d Deployment) CertificateDomain() evm.Hash { return d.DomainOf(1) }

// DomainOf returns the first field of every certificate of a version of claims, 1 or 2:
// keccak256(abi.encode("4MICA_CORE_GUARANTEE_V1", chainId, vault)), and …_V2.
func (d Deployment) DomainOf(version uint64) evm.Hash {
	tag := "4MICA_CORE_GUARANTEE_V" + strconv.FormatUint(version, 10)
	offset, chain, vault, length := evm.WordUint64(3*32), evm.WordUint64(d.ChainID), d.Vault.Word(), evm.WordUint64(uint64(len(tag)))
	var text [32]byte
	copy(text[:], tag)
	return evm.Keccak256(offset[:], chain[:], vault[:], length[:], text[:])
}

// Claims is what a payer signs: it owes Payee up to Amount of Asset for the request ReqID, and, if there is a Policy, only
// once a validator has answered as that says. Claims with a policy are of version 2; [Claims.Bind] makes them.
type Claims struct {
	Payer, Payee evm.Address
	Asset        evm.Address // zero for the chain's own coin
	ReqID        evm.Hash    // a 256-bit number on the wire
	Amount       money.Amount
	Timestamp    uint64 // unix seconds, by the payer's clock
	Policy       *Policy
}

// Version returns the version of the protocol's claims that these are: 2 with a policy, 1 without.
func (c Claims) Version() uint64 {
	if c.Policy != nil {
		return 2
	}
	return 1
}

// Equal reports whether two claims are the same in every field.
func (c Claims) Equal(other Claims) bool { return c.compare(other) == nil }

// Key names one guarantee for ever, by value: two requests with one key are the same request or a conflict.
type Key struct {
	Payer, Payee, Asset evm.Address
	ReqID               evm.Hash
}

// Key returns the guarantee's name.
func (c Claims) Key() Key { return Key{Payer: c.Payer, Payee: c.Payee, Asset: c.Asset, ReqID: c.ReqID} }

const claimsFields = "address user,address recipient,uint256 reqId,uint256 amount,address asset,uint64 timestamp"

var (
	claimsType       = evm.Keccak256([]byte("SolGuaranteeRequestClaimsV1(" + claimsFields + ")"))
	policyClaimsType = evm.Keccak256([]byte("SolGuaranteeRequestClaimsV2(" + claimsFields + ",address validationRegistryAddress,bytes32 validationRequestHash,uint256 validationChainId,address validatorAddress,uint256 validatorAgentId,uint8 minValidationScore,bytes32 validationSubjectHash,bytes32 jobHash,string requiredValidationTag)"))
)

// Digest returns the EIP-712 digest of the claims under a domain separator, see [Deployment.ClaimsSeparator]. It
// identifies the guarantee's content in books and on chain, also when the payer signed another form.
func (c Claims) Digest(separator evm.Hash) evm.Hash {
	fields := c.words()
	if p := c.Policy; p != nil {
		words, tag := p.words(), evm.Keccak256([]byte(p.Tag))
		return evm.TypedDigest(separator, evm.Keccak256(policyClaimsType[:], fields[:], words[:], tag[:]))
	}
	return evm.TypedDigest(separator, evm.Keccak256(claimsType[:], fields[:]))
}

// words returns the ABI encoding of the fields that both versions sign, in the order of the signed types.
func (c Claims) words() (b [6 * 32]byte) {
	payer, payee, asset := c.Payer.Word(), c.Payee.Word(), c.Asset.Word()
	amount, timestamp := c.Amount.Word(), evm.WordUint64(c.Timestamp)
	for i, w := range [][32]byte{payer, payee, c.ReqID, amount, asset, timestamp} {
		copy(b[32*i:], w[:])
	}
	return b
}

// compare returns a *MismatchError for the first field in which c differs from want.
func (c Claims) compare(want Claims) error {
	switch {
	case c.Version() != want.Version():
		return mismatch("version", money.Units(c.Version()), money.Units(want.Version()))
	case c.Payer != want.Payer:
		return mismatch("user_address", c.Payer, want.Payer)
	case c.Payee != want.Payee:
		return mismatch("recipient_address", c.Payee, want.Payee)
	case c.Asset != want.Asset:
		return mismatch("asset_address", c.Asset, want.Asset)
	case c.ReqID != want.ReqID:
		return mismatch("req_id", c.ReqID, want.ReqID)
	case c.Amount != want.Amount:
		return mismatch("amount", c.Amount, want.Amount)
	case c.Timestamp != want.Timestamp:
		return mismatch("timestamp", money.Units(c.Timestamp), money.Units(want.Timestamp))
	case c.Policy == nil:
		return nil
	}
	got, wanted := *c.Policy, *want.Policy
	if err := got.compare(wanted, inClaims); err != nil {
		return err
	}
	switch {
	case got.Subject != wanted.Subject:
		return mismatch("validation_subject_hash", got.Subject, wanted.Subject)
	case got.Request != wanted.Request:
		return mismatch("validation_request_hash", got.Request, wanted.Request)
	}
	return nil
}

// CycleText returns the text that names the cycle of an asset which starts at a unix second: 0x…:1782086400.
func CycleText(asset evm.Address, start uint64) string {
	return asset.Lower() + ":" + strconv.FormatUint(start, 10)
}

// CycleID returns the hash of [CycleText], the cycle's name on chain and in certificates.
func CycleID(asset evm.Address, start uint64) evm.Hash {
	return evm.Keccak256([]byte(CycleText(asset, start)))
}

// ID returns the guarantee id that 4Mica's clients show for claims in the cycle that starts at a unix second.
//
// The protocol hashes addresses as text, in whatever letter case they arrived, so that one guarantee has many ids. Here
// addresses are always lower case, hence one id. It names a guarantee to people and peers; [Claims.Key] and the digest
// are what decides whether two guarantees are one.
func ID(c Claims, start uint64) evm.Hash {
	var preimage []byte
	for _, part := range []string{
		"4MICA_CYCLE_GUARANTEE_V1", CycleText(c.Asset, start),
		c.Payer.Lower(), c.Payee.Lower(), c.Asset.Lower(), number(c.ReqID).String(), strconv.FormatUint(c.Version(), 10),
	} {
		preimage = binary.BigEndian.AppendUint64(preimage, uint64(len(part)))
		preimage = append(preimage, part...)
	}
	return evm.Keccak256(preimage)
}
