package guarantee

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/big"

	bls "github.com/consensys/gnark-crypto/ecc/bls12-381"
	"github.com/consensys/gnark-crypto/ecc/bls12-381/fr"

	"github.com/farthing402/farthing/evm"
)

// hashToCurveTag is the domain separation tag of the signature suite: keys in G1, signatures in G2, no augmentation.
var hashToCurveTag = []byte("BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_")

// negatedG1 stands on the signature's side of the pairing equation.
var negatedG1 = func() (p bls.G1Affine) {
	_, _, g1, _ := bls.Generators()
	p.Neg(&g1)
	return p
}()

// PublicKey is an operator's BLS12-381 key, a compressed point of G1.
type PublicKey [bls.SizeOfG1AffineCompressed]byte

// String returns 0x and 96 lower-case digits.
func (k PublicKey) String() string { return fmt.Sprintf("0x%x", k[:]) }

// G1Words returns the key as a contract takes it: the high and low word of x, then of y.
func (k PublicKey) G1Words() (words [4][32]byte, err error) {
	p, err := k.point()
	if err != nil {
		return words, err
	}
	for i, coordinate := range [][48]byte{p.X.Bytes(), p.Y.Bytes()} {
		copy(words[2*i][16:], coordinate[:16])
		copy(words[2*i+1][:], coordinate[16:])
	}
	return words, nil
}

// point decodes the key. A key at infinity is refused because every message would verify under it, and a point outside
// the subgroup because pairings say nothing about it.
func (k PublicKey) point() (p bls.G1Affine, err error) {
	if _, err := p.SetBytes(k[:]); err != nil { // checks flags, range, curve and subgroup
		return p, fmt.Errorf("public key: %w: %w", ErrKey, err)
	}
	if p.IsInfinity() || p.Bytes() != k {
		return p, fmt.Errorf("public key: %w", ErrKey)
	}
	return p, nil
}

// Authority holds an operator's BLS key and certifies claims with it. It never prints its secret. It is safe for
// concurrent use.
//
// BUG: the curve library does not multiply in constant time; whoever shares a processor with the operator and times it
// closely may learn about the key.
type Authority struct {
	secret *big.Int
	public PublicKey
}

// NewAuthority makes an authority from 32 secret bytes, which must lie in [1, r).
func NewAuthority(secret []byte) (*Authority, error) {
	scalar := new(big.Int).SetBytes(secret)
	if len(secret) != 32 || scalar.Sign() == 0 || scalar.Cmp(fr.Modulus()) >= 0 {
		return nil, fmt.Errorf("secret: not 32 bytes within the group order: %w", ErrKey)
	}
	var public bls.G1Affine
	public.ScalarMultiplicationBase(scalar)
	return &Authority{secret: scalar, public: public.Bytes()}, nil
}

// PublicKey returns the key under which the authority's certificates verify.
func (a *Authority) PublicKey() PublicKey { return a.public }

// String shows the public key only.
func (a *Authority) String() string { return "authority " + a.public.String() }

// GoString shows the public key only.
func (a *Authority) GoString() string { return a.String() }

// LogValue shows the public key only.
func (a *Authority) LogValue() slog.Value { return slog.StringValue(a.String()) }

// Certify signs the bytes of [EncodeClaims] and no others. The result is a pure function of key and claims, so it can
// be made again after a crash.
func (a *Authority) Certify(claims []byte) (Certificate, error) {
	if _, _, _, err := DecodeClaims(claims); err != nil {
		return Certificate{}, fmt.Errorf("certify: %w", err)
	}
	sig, err := a.sign(claims)
	if err != nil {
		return Certificate{}, fmt.Errorf("certify: %w", err)
	}
	return Certificate{Claims: claims, Signature: sig}, nil
}

// CertifyBatch certifies many claims, all of one version, one domain and one cycle, by a single signature. Certificates are in the
// order of claims, which decides their bytes: the same claims in the same order give the same certificates.
func (a *Authority) CertifyBatch(domain, cycle evm.Hash, claims [][]byte) ([]Certificate, error) {
	if len(claims) == 0 || uint64(len(claims)) > math.MaxUint32 {
		return nil, fmt.Errorf("certify batch of %d: %w", len(claims), ErrCertificate)
	}
	leaves, version := make([]evm.Hash, len(claims)), uint64(0)
	for i, c := range claims {
		itsDomain, itsCycle, it, err := DecodeClaims(c)
		if version == 0 {
			version = it.Version()
		}
		if err == nil && (it.Version() != version || itsDomain != domain || itsCycle != cycle) {
			err = fmt.Errorf("not of the batch's version, domain and cycle: %w", ErrCertificate)
		}
		if err != nil {
			return nil, fmt.Errorf("certify batch: item %d: %w", i, err)
		}
		leaves[i] = batchLeaf(c)
	}
	proofs := batchProofs(leaves)
	message := batchMessage(domain, proofs[0].Root, cycle, proofs[0].Size)
	sig, err := a.sign(message[:])
	if err != nil {
		return nil, fmt.Errorf("certify batch: %w", err)
	}
	certificates := make([]Certificate, len(claims))
	for i := range claims {
		certificates[i] = Certificate{Claims: claims[i], Signature: sig, Batch: &proofs[i]}
	}
	return certificates, nil
}

func (a *Authority) sign(message []byte) (sig [96]byte, err error) {
	h, err := bls.HashToG2(message, hashToCurveTag)
	if err != nil {
		return sig, err
	}
	var p bls.G2Affine
	p.ScalarMultiplication(&h, a.secret)
	return p.Bytes(), nil
}

var errPairing = errors.New("pairing")

// verify checks a signature under a key that point() has admitted.
func verifySignature(key bls.G1Affine, message []byte, signature [96]byte) error {
	var sig bls.G2Affine
	if _, err := sig.SetBytes(signature[:]); err != nil { // checks flags, range, curve and subgroup
		return err
	}
	if sig.IsInfinity() || sig.Bytes() != signature {
		return bls.ErrInvalidInfinityEncoding
	}
	h, err := bls.HashToG2(message, hashToCurveTag)
	if err != nil {
		return err
	}
	// e(-G1, signature) · e(key, H(message)) = 1
	ok, err := bls.PairingCheck([]bls.G1Affine{negatedG1, key}, []bls.G2Affine{sig, h})
	if err != nil {
		return err
	}
	if !ok {
		return errPairing
	}
	return nil
}
