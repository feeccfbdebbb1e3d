package evm

// Domain is an EIP-712 domain. VerifyingContract nil leaves that member out of the domain's type, as 4Mica's claims do.
type Domain struct {
	Name, Version     string
	ChainID           uint64
	VerifyingContract *Address
}

var (
	domainType         = Keccak256([]byte("EIP712Domain(string name,string version,uint256 chainId)"))
	domainContractType = Keccak256([]byte("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"))
)

// Separator returns the domain's hashStruct.
func (d Domain) Separator() Hash {
	name, version, chain := Keccak256([]byte(d.Name)), Keccak256([]byte(d.Version)), WordUint64(d.ChainID)
	if d.VerifyingContract == nil {
		return Keccak256(domainType[:], name[:], version[:], chain[:])
	}
	contract := d.VerifyingContract.Word()
	return Keccak256(domainContractType[:], name[:], version[:], chain[:], contract[:])
}

// TypedDigest returns what is signed for a struct under a domain: keccak256(0x19 0x01 ‖ separator ‖ hashStruct).
func TypedDigest(separator, structHash Hash) Hash {
	return Keccak256([]byte{0x19, 0x01}, separator[:], structHash[:])
}

// WordUint64 returns v as an ABI word.
func WordUint64(v uint64) (w [32]byte) {
	for i := range 8 {
		w[31-i] = byte(v >> (8 * i))
	}
	return w
}
