package purchase

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// Draw is how a payer that knows of its bundle pays a request out of it: a signature that says for which request, and with
// which no money can be moved. It stands in a payment's payload in place of a transfer.
type Draw struct {
	Bundle    string      // id of the purchase that bought it
	Payer     evm.Address // whose bundle it is
	Terms     evm.Hash    // [Terms.Hash] of the request's purchase
	Timestamp uint64      // when it was signed, unix seconds
	Signature evm.Signature
}

// How far a draw's timestamp may be from the seller's clock.
const (
	DrawPast  = 300 * time.Second
	DrawAhead = 30 * time.Second
)

// Errors of [Draw.Window].
var (
	ErrDrawFuture = errors.New("draw was signed in the future")
	ErrDrawOld    = errors.New("draw was signed too long ago")
)

// drawType is the typed data of a draw (EIP-712), under a domain that names the payee as the verifying contract.
var drawType = evm.Keccak256([]byte("Draw(string bundle,bytes32 terms,uint256 timestamp)"))

const drawDomain, drawVersion = "farthing bundle", "1"

// Digest returns what the payer signs for a payee on a chain. It names the payment, and covers everything but the payer,
// whom the signature tells.
func (d Draw) Digest(chainID uint64, payee evm.Address) evm.Hash {
	bundle, at := evm.Keccak256([]byte(d.Bundle)), evm.WordUint64(d.Timestamp)
	domain := evm.Domain{Name: drawDomain, Version: drawVersion, ChainID: chainID, VerifyingContract: &payee}
	return evm.TypedDigest(domain.Separator(), evm.Keccak256(drawType[:], bundle[:], d.Terms[:], at[:]))
}

// SignDraw signs a draw from a bundle for the request that terms are of.
func SignDraw(ctx context.Context, key evm.Signer, chainID uint64, payee evm.Address, bundle string, terms evm.Hash, now time.Time) (Draw, error) {
	d := Draw{Bundle: bundle, Payer: key.Address(), Terms: terms, Timestamp: uint64(max(now.Unix(), 0))}
	var err error
	if d.Signature, err = key.Sign(ctx, d.Digest(chainID, payee)); err != nil {
		return Draw{}, fmt.Errorf("sign draw from %s: %w", bundle, err)
	}
	return d, d.Verify(chainID, payee)
}

// Verify reports whether the payer signed the draw for this payee on this chain. A high s is refused, as in [evm.Recover].
func (d Draw) Verify(chainID uint64, payee evm.Address) error {
	signer, err := evm.Recover(d.Digest(chainID, payee), d.Signature)
	if err == nil && signer != d.Payer {
		err = fmt.Errorf("it is signed by %s", signer)
	}
	return err
}

// Window reports a timestamp that is too far from now.
func (d Draw) Window(now time.Time) error {
	at := uint64(max(now.Unix(), 0))
	switch {
	case d.Timestamp > at && d.Timestamp-at > uint64(DrawAhead/time.Second):
		return fmt.Errorf("%w: by %d s", ErrDrawFuture, d.Timestamp-at)
	case d.Timestamp < at && at-d.Timestamp > uint64(DrawPast/time.Second):
		return fmt.Errorf("%w: %d s", ErrDrawOld, at-d.Timestamp)
	}
	return nil
}

type drawPayload struct {
	Draw *drawJSON `json:"draw"`
}

type drawJSON struct {
	Bundle    string        `json:"bundle"`
	Payer     evm.Address   `json:"payer"`
	Terms     evm.Hash      `json:"terms"`
	Timestamp money.Amount  `json:"timestamp"` // decimal text
	Signature evm.Signature `json:"signature"`
}

// MarshalJSON returns the payload of a payment that is a draw: {"draw":{bundle, payer, terms, timestamp, signature}}.
func (d Draw) MarshalJSON() ([]byte, error) {
	return json.Marshal(drawPayload{&drawJSON{d.Bundle, d.Payer, d.Terms, money.Units(d.Timestamp), d.Signature}})
}

// IsDraw reports whether a payload is a draw, or says that it is one.
func IsDraw(payload json.RawMessage) bool {
	var p struct {
		Draw json.RawMessage `json:"draw"`
	}
	return x402.Decode(payload, &p) == nil && len(p.Draw) > 0
}

// ReadDraw reads the payload of a payment that is a draw and nothing else: what stands beside it could be a second
// payment. What it returns is what somebody says: see [Draw.Verify] and [Draw.Window].
func ReadDraw(payload json.RawMessage) (Draw, error) {
	var p drawPayload
	if err := x402.Decode(payload, &p); err != nil {
		return Draw{}, fmt.Errorf("draw: %w", err)
	}
	strict := json.NewDecoder(bytes.NewReader(payload))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&p); err != nil {
		return Draw{}, fmt.Errorf("draw: %w", err)
	}
	if p.Draw == nil {
		return Draw{}, errors.New("draw: there is none")
	}
	at, fits := p.Draw.Timestamp.Uint64()
	switch {
	case !ValidID(p.Draw.Bundle):
		return Draw{}, fmt.Errorf("draw: bundle %q is no purchase's id", clip(p.Draw.Bundle))
	case !fits || at > 1<<40:
		return Draw{}, errors.New("draw: its timestamp is no time")
	}
	return Draw{p.Draw.Bundle, p.Draw.Payer, p.Draw.Terms, at, p.Draw.Signature}, nil
}

// clip bounds text that somebody else wrote.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
