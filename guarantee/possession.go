package guarantee

import (
	bls "github.com/consensys/gnark-crypto/ecc/bls12-381"

	"github.com/farthing402/farthing/evm"
)

var possessionTag = evm.Keccak256([]byte("FARTHING_KEY_V1"))

// ProvePossession returns what the vault asks for when a key is registered: the key and its signature of
// keccak256("FARTHING_KEY_V1") ‖ certificate domain ‖ key, both as the words of EIP-2537. Without it an operator could
// register a key that it computed from another's.
func (a *Authority) ProvePossession(d Deployment) (key [4][32]byte, proof [8][32]byte, err error) {
	if key, err = a.public.G1Words(); err != nil {
		return key, proof, err
	}
	domain := d.CertificateDomain()
	message := append(append([]byte{}, possessionTag[:]...), domain[:]...)
	for _, word := range key {
		message = append(message, word[:]...)
	}
	sig, err := a.sign(message)
	if err != nil {
		return key, proof, err
	}
	proof, err = signatureWords(sig)
	return key, proof, err
}

// signatureWords writes a signature as EIP-2537 takes a point of G2: x.c0, x.c1, y.c0, y.c1, each in a high and a low
// word.
func signatureWords(sig [96]byte) (words [8][32]byte, err error) {
	var p bls.G2Affine
	if _, err := p.SetBytes(sig[:]); err != nil {
		return words, err
	}
	for i, coordinate := range [][48]byte{p.X.A0.Bytes(), p.X.A1.Bytes(), p.Y.A0.Bytes(), p.Y.A1.Bytes()} {
		copy(words[2*i][16:], coordinate[:16])
		copy(words[2*i+1][:], coordinate[16:])
	}
	return words, nil
}
