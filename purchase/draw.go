package purchase

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/x402"
)

// Draw is a payer's word that it takes what a request costs from its bundle: what farthing's payer sends in place of a
// payment while units remain. It can be spent on nothing, so nothing is lost with it.
type Draw struct {
	Bundle    string // id of the purchase that bought it
	Payer     evm.Address
	Terms     evm.Hash // [Terms.Hash]; not on the wire: the seller makes it from its own quote and the request it got
	Timestamp uint64   // unix seconds, the payer's clock
	Signature evm.Signature
}

// How far a draw's timestamp may be from the seller's clock, both inclusive: the same as a guarantee's.
const (
	DrawPast  = 300 * time.Second
	DrawAhead = 30 * time.Second
)

// Errors of draws.
var (
	// ErrDrawMalformed: the payload names a draw and is not one.
	ErrDrawMalformed = errors.New("malformed draw")
	// ErrDrawSignature: the payer signed another draw, or none; one that is made for other terms is another draw. A high s
	// matches evm.ErrHighS as well.
	ErrDrawSignature = errors.New("draw is not signed by its payer")
	// ErrDrawTime: the timestamp is outside the window.
	ErrDrawTime = errors.New("draw is not of now")
)

var (
	drawType = evm.Keccak256([]byte("Draw(string bundle,bytes32 terms,uint256 timestamp)"))
	drawTag  = []byte("FARTHING_DRAW_V1")
)

// SignDraw signs a draw for terms on a chain, at a payee.
func SignDraw(ctx context.Context, s evm.Signer, chainID uint64, payee evm.Address, bundle string, terms evm.Hash, now time.Time) (Draw, error) {
	if now.Unix() < 0 {
		return Draw{}, fmt.Errorf("sign draw: the clock is at %s: %w", now, ErrDrawTime)
	}
	d := Draw{Bundle: bundle, Payer: s.Address(), Terms: terms, Timestamp: uint64(now.Unix())}
	var err error
	if d.Signature, err = s.Sign(ctx, d.Digest(chainID, payee)); err != nil {
		return Draw{}, fmt.Errorf("sign draw: %w", err)
	}
	return d, nil
}

// Digest returns the EIP-712 digest that the payer signs: of Draw(string bundle,bytes32 terms,uint256 timestamp) under
// the domain {farthing bundle, 1, chain, payee}.
func (d Draw) Digest(chainID uint64, payee evm.Address) evm.Hash {
	domain := evm.Domain{Name: "farthing bundle", Version: "1", ChainID: chainID, VerifyingContract: &payee}
	bundle, timestamp := evm.Keccak256([]byte(d.Bundle)), evm.WordUint64(d.Timestamp)
	return evm.TypedDigest(domain.Separator(), evm.Keccak256(drawType[:], bundle[:], d.Terms[:], timestamp[:]))
}

// ID names the draw as a payment, by value: whatever its signature looks like. Two payers' draws never have one name.
func (d Draw) ID(chainID uint64, payee evm.Address) evm.Hash {
	digest := d.Digest(chainID, payee)
	return evm.Keccak256(drawTag, d.Payer[:], digest[:])
}

// Signed returns an error that matches [ErrDrawSignature] unless the payer signed the draw. Whether the bundle is the
// payer's is for the [Book].
func (d Draw) Signed(chainID uint64, payee evm.Address) error {
	signer, err := evm.Recover(d.Digest(chainID, payee), d.Signature)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDrawSignature, err)
	}
	if signer != d.Payer {
		return fmt.Errorf("the payer is %s: %w", d.Payer, ErrDrawSignature)
	}
	return nil
}

// Fresh returns an error that matches [ErrDrawTime] unless the draw's timestamp is within [DrawPast] and [DrawAhead] of
// now.
func (d Draw) Fresh(now time.Time) error {
	seconds := uint64(max(now.Unix(), 0))
	if d.Timestamp > seconds {
		if ahead := d.Timestamp - seconds; ahead > uint64(DrawAhead/time.Second) {
			return fmt.Errorf("%d seconds ahead: %w", ahead, ErrDrawTime)
		}
	} else if old := seconds - d.Timestamp; old > uint64(DrawPast/time.Second) {
		return fmt.Errorf("%d seconds old: %w", old, ErrDrawTime)
	}
	return nil
}

type drawJSON struct {
	Bundle    string        `json:"bundle"`
	Payer     evm.Address   `json:"payer"`
	Timestamp uint64        `json:"timestamp"`
	Signature evm.Signature `json:"signature"`
}

// Payload returns the draw as the payload of a payment: {"draw":{bundle, payer, timestamp, signature}}.
func (d Draw) Payload() (json.RawMessage, error) {
	return json.Marshal(map[string]drawJSON{"draw": {d.Bundle, d.Payer, d.Timestamp, d.Signature}})
}

// ReadDraw reads the payload of a payment, if it is a draw: false if it has no member draw. It takes what
// [Draw.Payload] writes, in any order and with any spaces: nothing else in it, and nothing beside it that could be a
// second payment. The error matches [ErrDrawMalformed]. Terms are left for the caller to fill in.
func ReadDraw(payload json.RawMessage) (d Draw, is bool, err error) {
	var outer map[string]json.RawMessage
	if json.Unmarshal(payload, &outer) != nil {
		return Draw{}, false, nil
	}
	raw, is := outer["draw"]
	if !is {
		return Draw{}, false, nil
	}
	if err := x402.Decode(payload, &outer); err != nil { // members that are there twice
		return Draw{}, true, fmt.Errorf("%w: %w", ErrDrawMalformed, err)
	}
	if len(outer) != 1 {
		return Draw{}, true, fmt.Errorf("%w: something stands beside it", ErrDrawMalformed)
	}
	var inner map[string]json.RawMessage
	if err := json.Unmarshal(raw, &inner); err != nil {
		return Draw{}, true, fmt.Errorf("%w: %w", ErrDrawMalformed, err)
	}
	for name, to := range map[string]any{"bundle": &d.Bundle, "payer": &d.Payer, "timestamp": &d.Timestamp, "signature": &d.Signature} {
		value, there := inner[name]
		if !there || bytes.Equal(value, []byte("null")) {
			return Draw{}, true, fmt.Errorf("%w: no %s", ErrDrawMalformed, name)
		}
		if err := json.Unmarshal(value, to); err != nil {
			return Draw{}, true, fmt.Errorf("%w: %s: %w", ErrDrawMalformed, name, err)
		}
	}
	switch {
	case len(inner) != 4:
		return Draw{}, true, fmt.Errorf("%w: it has %d members", ErrDrawMalformed, len(inner))
	case !ValidID(d.Bundle):
		return Draw{}, true, fmt.Errorf("%w: the bundle is no purchase id", ErrDrawMalformed)
	}
	return d, true, nil
}
