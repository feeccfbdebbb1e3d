package guarantee

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"

	"github.com/farthing402/farthing/evm"
)

// Form is how a payer's signature was made.
type Form string

const (
	// EIP712 is the typed-data signature that Farthing makes.
	EIP712 Form = "eip712"
	// EIP191 is a personal message over the claims. It names no chain and no deployment, so it can be presented in
	// every one; it exists because 4Mica's clients may send it.
	EIP191 Form = "eip191"
)

// Signed is claims with the payer's signature: the body of a guarantee request, and the payload of an x402 payment.
type Signed struct {
	Claims    Claims
	Signature evm.Signature
	Form      Form
}

// LogValue shows the claims and a prefix of the signature.
func (s Signed) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("payer", s.Claims.Payer), slog.Any("payee", s.Claims.Payee), slog.Any("asset", s.Claims.Asset),
		slog.Any("amount", s.Claims.Amount), slog.Any("req_id", s.Claims.ReqID), slog.Any("signature", s.Signature))
}

// Sign signs claims for a deployment. The signer must be the claims' payer.
func Sign(ctx context.Context, s evm.Signer, d Deployment, c Claims) (Signed, error) {
	if s.Address() != c.Payer {
		return Signed{}, fmt.Errorf("sign guarantee: the key is of %s, the payer is %s: %w", s.Address(), c.Payer, ErrSignature)
	}
	sig, err := s.Sign(ctx, c.Digest(d.ClaimsSeparator()))
	if err != nil {
		return Signed{}, fmt.Errorf("sign guarantee: %w", err)
	}
	return Signed{Claims: c, Signature: sig, Form: EIP712}, nil
}

// Rules says what [Signed.Verify] admits. The zero value is the strict one.
type Rules struct {
	EIP191 bool // also personal messages over claims of version 1; see [EIP191] for what that gives up
}

// Verify checks that the payer signed the claims, in an admitted form, and returns the claims' EIP-712 digest under
// separator (see [Deployment.ClaimsSeparator]), whatever the form. It checks first the form, then the signature.
// Errors match [ErrForm] or [ErrSignature]; a high s matches evm.ErrHighS as well.
func (s Signed) Verify(separator evm.Hash, r Rules) (evm.Hash, error) {
	digest := s.Claims.Digest(separator)
	var signed []evm.Hash
	switch {
	case s.Form == EIP712:
		signed = []evm.Hash{digest}
	case s.Form == EIP191 && r.EIP191 && s.Claims.Policy == nil:
		raw, text := s.Claims.personal()
		signed = []evm.Hash{raw, text}
	default:
		return evm.Hash{}, fmt.Errorf("guarantee: form %q: %w", clip(string(s.Form)), ErrForm)
	}
	for _, h := range signed {
		switch signer, err := evm.Recover(h, s.Signature); {
		case err != nil:
			return evm.Hash{}, fmt.Errorf("guarantee: %w: %w", ErrSignature, err)
		case signer == s.Claims.Payer:
			return digest, nil
		}
	}
	return evm.Hash{}, fmt.Errorf("guarantee: signer is not %s: %w", s.Claims.Payer, ErrSignature)
}

// personal returns what is signed as a personal message: 4Mica's core hashes the encoded fields; its TypeScript client
// signs their hexadecimal text instead. Of version 2 the core encodes a tuple, to which an offset leads, and the client
// the fields of one.
func (c Claims) personal() (raw, text evm.Hash) {
	words := c.words()
	fields := words[:]
	prefix := []byte{}
	if p := c.Policy; p != nil {
		args := make([]evm.Arg, 0, len(fields)/32+policyWords+1)
		more := p.words()
		for b := append(fields, more[:]...); len(b) > 0; b = b[32:] {
			args = append(args, evm.WordArg([32]byte(b)))
		}
		fields = evm.EncodeArgs(append(args, evm.BytesArg([]byte(p.Tag)))...)
		offset := evm.WordUint64(32)
		prefix = offset[:]
	}
	return evm.HashPersonal(append(prefix, fields...)), evm.HashPersonal([]byte("0x" + hex.EncodeToString(fields)))
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
