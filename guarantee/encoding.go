package guarantee

import (
	"bytes"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// ClaimsBytes is the length of certified claims: abi.encode(uint64 version, bytes inner) with an inner tuple of nine
// words.
const ClaimsBytes = 12 * 32

// envelope is what stands before the inner tuple: version 1, where the inner bytes begin, how many they are.
var envelope = func() (b [3 * 32]byte) {
	b[31] = 1
	b[63] = 0x40
	b[94], b[95] = 0x01, 0x20
	return b
}()

// EncodeClaims returns the bytes that a certificate of claims covers.
func EncodeClaims(domain, cycle evm.Hash, c Claims) []byte {
	payer, payee, asset := c.Payer.Word(), c.Payee.Word(), c.Asset.Word()
	amount, timestamp, version := c.Amount.Word(), evm.WordUint64(c.Timestamp), evm.WordUint64(1)
	b := make([]byte, 0, ClaimsBytes)
	b = append(b, envelope[:]...)
	for _, w := range [][32]byte{domain, cycle, c.ReqID, payer, payee, amount, asset, timestamp, version} {
		b = append(b, w[:]...)
	}
	return b
}

// DecodeClaims reads what [EncodeClaims] writes and nothing else: claims have one encoding. Its error matches
// [ErrCertificate].
func DecodeClaims(b []byte) (domain, cycle evm.Hash, c Claims, err error) {
	fail := func(what string) (evm.Hash, evm.Hash, Claims, error) {
		return evm.Hash{}, evm.Hash{}, Claims{}, fmt.Errorf("claims: %s: %w", what, ErrCertificate)
	}
	if len(b) != ClaimsBytes {
		return fail(fmt.Sprintf("%d bytes, want %d", len(b), ClaimsBytes))
	}
	word := func(i int) []byte { return b[len(envelope)+32*i:][:32] }
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
		return fail("not the encoding of version 1")
	}
	return domain, cycle, c, nil
}
