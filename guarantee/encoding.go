package guarantee

import (
	"bytes"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// ClaimsBytes is the length of certified claims of version 1: abi.encode(uint64 version, bytes inner) with an inner tuple
// of nine words. Those of version 2 are longer, at most ClaimsBytesMax.
const (
	ClaimsBytes    = 12 * 32
	ClaimsBytesMax = policyClaimsBytes + TagBytesMax
)

// policyClaimsBytes is the length of certified claims of version 2 whose tag is empty: the tuple of the inner bytes is a
// dynamic one, so an offset leads to it; policy and the tag's offset and length come behind the nine words.
const policyClaimsBytes = ClaimsBytes + (1+policyWords+2)*32

// envelope is what stands before the inner bytes of version 1: the version, where the inner bytes begin, how many they are.
var envelope = func() (b [3 * 32]byte) {
	b[31] = 1
	b[63] = 0x40
	b[94], b[95] = 0x01, 0x20
	return b
}()

// EncodeClaims returns the bytes that a certificate of claims covers. domain is that of the claims' version, see
// [Deployment.DomainOf].
func EncodeClaims(domain, cycle evm.Hash, c Claims) []byte {
	payer, payee, asset := c.Payer.Word(), c.Payee.Word(), c.Asset.Word()
	amount, timestamp, version := c.Amount.Word(), evm.WordUint64(c.Timestamp), evm.WordUint64(c.Version())
	fields := [...][32]byte{domain, cycle, c.ReqID, payer, payee, amount, asset, timestamp, version}
	if c.Policy != nil {
		inner := make([]evm.Arg, 0, len(fields)+policyWords+1)
		for _, w := range fields {
			inner = append(inner, evm.WordArg(w))
		}
		words := c.Policy.words()
		for i := range policyWords {
			inner = append(inner, evm.WordArg([32]byte(words[32*i:])))
		}
		tuple := evm.TupleArg(append(inner, evm.BytesArg([]byte(c.Policy.Tag)))...)
		return evm.EncodeArgs(evm.WordArg(version), evm.BytesArg(evm.EncodeArgs(tuple)))
	}
	b := make([]byte, 0, ClaimsBytes)
	b = append(b, envelope[:]...)
	for _, w := range fields {
		b = append(b, w[:]...)
	}
	return b
}

// DecodeClaims reads what [EncodeClaims] writes and nothing else: claims have one encoding, because a contract that is
// shown a certificate knows one. Its error matches [ErrCertificate].
func DecodeClaims(b []byte) (domain, cycle evm.Hash, c Claims, err error) {
	fail := func(format string, args ...any) (evm.Hash, evm.Hash, Claims, error) {
		return evm.Hash{}, evm.Hash{}, Claims{}, fmt.Errorf("claims: "+format+": %w", append(args, ErrCertificate)...)
	}
	fields := evm.ABI(b)
	switch {
	case len(b) == ClaimsBytes:
		fields = fields[len(envelope):]
	case len(b) >= policyClaimsBytes && len(b) <= ClaimsBytesMax:
		fields = fields[len(envelope)+32:]
		tag, ok := fields.Bytes(9 + policyWords)
		if !ok {
			return fail("not the encoding of version 2")
		}
		c.Policy = readPolicy(fields[9*32:][:policyWords*32], tag)
	default:
		return fail("%d bytes, want %d, or %d to %d for version 2", len(b), ClaimsBytes, policyClaimsBytes, ClaimsBytesMax)
	}
	word := func(i int) []byte { return fields[32*i:][:32] }
	copy(domain[:], word(0))
	copy(cycle[:], word(1))
	copy(c.ReqID[:], word(2))
	copy(c.Payer[:], word(3)[12:])
	copy(c.Payee[:], word(4)[12:])
	if c.Amount, err = money.AmountFromBytes(word(5)); err != nil {
		return fail("amount")
	}
	copy(c.Asset[:], word(6)[12:])
	for _, digit := range word(7)[24:] {
		c.Timestamp = c.Timestamp<<8 | uint64(digit)
	}
	// Comparing with the one right encoding checks every padding byte, offset, length and version at once.
	if !bytes.Equal(b, EncodeClaims(domain, cycle, c)) {
		return fail("not the encoding of version %d", c.Version())
	}
	return domain, cycle, c, nil
}
