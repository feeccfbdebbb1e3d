package guarantee

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Note is a payee's word that it takes no more than Amount of the guarantee with Digest: less than the cap that the
// payer signed, or 0 to let it go. Notes only lower: of several, the least amount counts.
type Note struct {
	Digest evm.Hash     `json:"digest"` // [Claims.Digest]
	Amount money.Amount `json:"amount"`
	Reason evm.Hash     `json:"reason"` // the hash of why, or zero
}

var noteType = evm.Keccak256([]byte("Note(bytes32 digest,uint256 amount,bytes32 reason)"))

// SigningDigest returns the EIP-712 digest that the payee signs, in the domain of the deployment's vault.
func (n Note) SigningDigest(d Deployment) evm.Hash {
	domain := evm.Domain{Name: "Farthing", Version: "1", ChainID: d.ChainID, VerifyingContract: &d.Vault}
	amount := n.Amount.Word()
	return evm.TypedDigest(domain.Separator(), evm.Keccak256(noteType[:], n.Digest[:], amount[:], n.Reason[:]))
}

// SignedNote is a note with its signature. It says nothing by itself about who had to sign it: see [SignedNote.Signer].
type SignedNote struct {
	Note
	Signature evm.Signature `json:"signature"`
}

// LogValue shows the note and a prefix of the signature.
func (n SignedNote) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("digest", n.Digest), slog.Any("amount", n.Amount), slog.Any("signature", n.Signature))
}

// SignNote signs a note for a deployment. The signer should be the guarantee's payee.
func SignNote(ctx context.Context, s evm.Signer, d Deployment, n Note) (SignedNote, error) {
	sig, err := s.Sign(ctx, n.SigningDigest(d))
	if err != nil {
		return SignedNote{}, fmt.Errorf("sign note: %w", err)
	}
	return SignedNote{Note: n, Signature: sig}, nil
}

// Signer returns who signed the note; the caller compares it with the guarantee's payee. Its error matches
// [ErrSignature], and evm.ErrHighS for a high s.
func (n SignedNote) Signer(d Deployment) (evm.Address, error) {
	signer, err := evm.Recover(n.SigningDigest(d), n.Signature)
	if err != nil {
		return evm.Address{}, fmt.Errorf("note: %w: %w", ErrSignature, err)
	}
	return signer, nil
}
